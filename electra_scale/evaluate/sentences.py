"""What a network thinks of a whole sentence, as one number: the higher, the likelier."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from data_pipeline.errors import UserError
from data_pipeline.progress import tracking
from electra_scale.evaluate.networks import Network
from electra_scale.export.transformers_folder import detection

_POSITIONS = 16_384
"""Of a batch: enough to keep a processor busy, few enough for any memory."""

_LOGITS = 1 << 26
"""Scores of a batch over the vocabulary: 256 MB of them."""


@dataclass(frozen=True)
class Sentence:
    """Token ids of a text with its special tokens, and which of them are the text's own."""

    ids: list[int]
    own: list[int]


def encode(network: Network, texts: Sequence[str]) -> list[Sentence | None]:
    """Each text as the network reads it; None for one that is longer than it can read, or has no token."""
    if not texts:
        return []
    try:
        encoded = network.tokenizer(list(texts), return_special_tokens_mask=True, truncation=False, verbose=False)
    except Exception as error:  # settings of a damaged tokenizer are used only here
        raise UserError(f"the tokenizer of {network.name} can't be used ({error}); restore it") from error
    found: list[Sentence | None] = []
    for ids, special in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True):
        own = [place for place, flag in enumerate(special) if not flag]
        found.append(Sentence(ids, own) if own and len(ids) <= network.longest else None)
    return found


@torch.no_grad()
def discriminator_scores(network: Network, sentences: Sequence[Sentence]) -> list[float]:
    """The summed log-probability of "original" over each sentence's own tokens, from one pass."""
    scores = [0.0] * len(sentences)
    with tracking(len(sentences), 0, f"{network.name}: sentences", unit="sentence") as advance:
        for chosen in batches([len(one.ids) for one in sentences], _POSITIONS):
            ids, attended = padded(network, [sentences[index].ids for index in chosen])
            logits = detection(network.model(input_ids=ids, attention_mask=attended)).double()
            for row, index in enumerate(chosen):
                scores[index] = float(logsigmoid(-logits[row, sentences[index].own]).sum())
                advance()
    return scores


@torch.no_grad()
def pseudo_log_likelihoods(network: Network, sentences: Sequence[Sentence]) -> list[float]:
    """The summed log-probability of each own token of a sentence where it alone is masked (Salazar et al. 2020)."""
    places = [(index, place) for index, one in enumerate(sentences) for place in one.own]
    left = [len(one.own) for one in sentences]
    scores = [0.0] * len(sentences)
    most = min(_POSITIONS, _LOGITS // network.model.config.vocab_size)
    with tracking(len(sentences), 0, f"{network.name}: sentences", unit="sentence") as advance:
        for chosen in batches([len(sentences[index].ids) for index, _ in places], most):
            ids, attended = padded(network, [sentences[places[number][0]].ids for number in chosen])
            masked = torch.tensor([places[number][1] for number in chosen], device=network.device)
            rows = torch.arange(len(chosen), device=network.device)
            tokens = ids[rows, masked]
            ids[rows, masked] = network.tokenizer.mask_token_id
            logits = scores_at(network, ids, attended, rows, masked)
            found = logits.double().log_softmax(-1)[rows, tokens].tolist()
            for number, score in zip(chosen, found, strict=True):
                index = places[number][0]
                scores[index] += score
                left[index] -= 1
                if not left[index]:
                    advance()
    return scores


def scores_at(network: Network, ids: Tensor, attended: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Scores (M,V) of a masked language model at the positions (rows, places), (M,) each, of a batch (B,S).

    The vocabulary is scored at these positions only, where the model lets its last layer be reached.
    """
    last = network.model.get_output_embeddings()
    hook = None
    if isinstance(last, torch.nn.Linear):
        hook = last.register_forward_pre_hook(_only(ids.shape, rows, places))
    try:
        logits: Tensor = network.model(input_ids=ids, attention_mask=attended).logits
    finally:
        if hook is not None:
            hook.remove()
    return logits if logits.dim() == 2 else logits[rows, places]


def _only(shape: torch.Size, rows: Tensor, places: Tensor) -> Callable[[Any, tuple[Any, ...]], Any]:
    def choose(_: Any, inputs: tuple[Any, ...]) -> Any:
        features = inputs[0]
        return (features[rows, places], *inputs[1:]) if features.shape[:2] == shape else inputs

    return choose


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Indices in batches of like lengths, each of at most ``most`` positions, or of one index."""
    batch: list[int] = []
    # The longest first: if memory does not suffice, that is seen at once.
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def padded(network: Network, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids (B,S) and which of them are to be attended to (B,S)."""
    width = max(map(len, rows))
    pad = network.tokenizer.pad_token_id or 0
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=network.device)
    lengths = torch.tensor([len(row) for row in rows], device=network.device)
    return ids, (torch.arange(width, device=network.device) < lengths[:, None]).long()
