"""The ELECTRA networks: two encoders over one shared embedding, and their heads.

Nothing here knows about DeepSpeed or files; the one exception is :mod:`electra_scale.model.hf`, which is not
imported from here because it loads transformers.
"""

from electra_scale.model.config import EncoderSize, ModelConfig
from electra_scale.model.electra import Electra
from electra_scale.model.embeddings import positions_from_segments
from electra_scale.model.encoder import attention_mask
from electra_scale.model.heads import DiscriminatorHead, GeneratorHead, SamplingHead

__all__ = [
    "DiscriminatorHead",
    "Electra",
    "EncoderSize",
    "GeneratorHead",
    "ModelConfig",
    "SamplingHead",
    "attention_mask",
    "positions_from_segments",
]
