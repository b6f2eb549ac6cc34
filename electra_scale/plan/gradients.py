"""What DeepSpeed's engine holds of gradients in a step, by ZeRO's stage and the precisions; docs/plan.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from electra_scale.recipe.deepspeed_json import LARGEST_BUCKET, bucket_of


@dataclass(frozen=True)
class Gradients:
    """Bytes of gradients, and of what is made of them.

    ``always`` is held between steps too. The others are besides: ``between`` the micro-batches of a step, at the
    ``start`` of a backward pass and ``late`` in it, in the ``reduction`` and in the ``update``.
    """

    always: float
    between: float
    start: float
    late: float
    reduction: float
    update: float


def gradients_of(
    shared: int, largest: int, held: int, deepspeed_json: Mapping[str, Any], ranks: int, accumulation: int
) -> Gradients:
    """Gradients of the parameters whose state ranks share.

    Args:
        shared: those that train.
        largest: numbers of the largest of them.
        held: all parameters of the module, which a bucket of size "auto" has room for.
        deepspeed_json: content of the DeepSpeed JSON.
        ranks: that share them.
        accumulation: micro-batches of a step.
    """
    zero = deepspeed_json.get("zero_optimization", {})
    half = bool(deepspeed_json.get("bf16", {}).get("enabled"))
    element, part = 2 if half else 4, shared / ranks
    exact = half and deepspeed_json.get("data_types", {}).get("grad_accum_dtype") == "fp32"
    first_stage = zero.get("stage") == 1
    fused = bool(deepspeed_json.get("optimizer", {}).get("params", {}).get("fused"))
    if first_stage and exact:
        return _of_bf16_optimizer(shared, part, accumulation, fused)

    bucket_size = zero.get("reduce_bucket_size", LARGEST_BUCKET)
    bucket_size = bucket_of(held) if bucket_size == "auto" else int(bucket_size)
    contiguous = bool(zero.get("contiguous_gradients", True))
    bucket = float(bucket_size * element * (2 if zero.get("overlap_comm") else 1)) if contiguous and shared else 0.0
    # With a single precision DeepSpeed keeps whole parameters' gradients: a part of the largest means all of it.
    own = 4 * part if exact else element * max(part, largest if ranks > 1 else 0)
    copied = float(element * min(bucket_size, shared)) if ranks > 1 else 0.0
    # The norm takes a copy of each gradient in float64; sums in float32 are in one piece already.
    scratch = max(8 * min(largest, part), 0 if exact else 4 * part)
    if not fused:
        # The whole gradient of this rank's part, and AdamW's intermediate results.
        scratch = 8 * part
    if first_stage:
        # Whole until the last micro-batch is over. Then they move into the bucket.
        whole = float(element * shared)
        between = whole if accumulation > 1 else 0.0
        return Gradients(
            always=0.0,
            between=between,
            start=bucket + between,
            late=bucket + whole,
            reduction=bucket + max(copied + own, whole),
            update=own + scratch,
        )
    # A bucket that holds the whole gradient is reduced only when the backward pass is over.
    before = own if accumulation > 1 or shared > bucket_size else 0.0
    return Gradients(
        always=0.0,
        between=own if accumulation > 1 else 0.0,
        start=bucket + before,
        late=bucket + before,
        reduction=bucket + copied + own,
        update=own + scratch,
    )


def _of_bf16_optimizer(shared: int, part: float, accumulation: int, fused: bool) -> Gradients:
    """ZeRO 1 of 16-bit networks whose gradients are summed in float32: it keeps all the sums, and has no bucket.

    The networks' own gradients, 2 bytes each, last until the step is over. What is reduced is copied twice, in float32
    and in 16 bits.
    """
    own, copied = 2.0 * shared, 6.0 * shared
    between = own if accumulation > 1 else 0.0
    return Gradients(
        always=4.0 * shared,
        between=between,
        start=between,
        late=own,
        reduction=own + copied,
        update=own + (0.0 if fused else 8 * part),
    )
