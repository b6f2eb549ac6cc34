"""The batches of a global step."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from electra_scale.data.masking import masks
from electra_scale.data.noise import uniforms
from electra_scale.data.order import Order
from electra_scale.data.store import Split


@dataclass
class Batch:
    """Rows and their noise.

    ``ids`` (B, S) tokens; ``segment`` (B, S) document of the row, -1 padding; ``masked`` (M,) flat indices into B x S
    of the positions that the generator predicts; ``shown_as_mask`` (M,) whether it sees [MASK] there or the token;
    ``uniform`` (M,) float64 numbers in [0, 1) for the replacement draw.
    """

    ids: Tensor
    segment: Tensor
    masked: Tensor
    shown_as_mask: Tensor
    uniform: Tensor

    def to(self, device: torch.device) -> Batch:
        if device.type == "cpu":
            return self
        return Batch(**{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})


@dataclass
class LoaderState:
    """Where a run stands in its data; all that is needed to go on."""

    fingerprint: str
    settings: str
    seed: int
    epoch: int
    samples: int
    version: int = 1

    def to_dict(self) -> dict[str, object]:
        return asdict(self)


class Loader:
    """Batches of a split in the run's order, with keyed noise. Global step g consumes positions [g GB, (g+1) GB)."""

    def __init__(
        self,
        split: Split,
        seed: int,
        global_batch: int,
        mask_token_share: float,
        streams: int,
        window: int,
        shuffle: bool = True,
        masking: str = "",
    ) -> None:
        """``masking`` says which mask share the batches will be asked for, and when; it is compared on resume."""
        self.split = split
        self.seed = seed
        self.global_batch = global_batch
        self.mask_token_share = mask_token_share
        self.fingerprint = split.store.manifest.fingerprint
        self.settings = (
            f"sequence_length={split.sequence_length} global_batch={global_batch} streams={streams} window={window} "
            f"mask_token_share={mask_token_share} {masking}".rstrip()
        )
        self.order = Order(split.rows, self.fingerprint, seed, streams, window, shuffle)
        self._special = split.special.ids()

    @property
    def samples(self) -> int:
        """Rows in an epoch."""
        return self.order.samples

    def batch(self, step: int, first: int, count: int, mask_share: float) -> Batch:
        """Rows ``first`` to ``first + count`` of global step ``step``; a rank asks for its own slice only."""
        start = step * self.global_batch + first
        places = [self.order.place(position) for position in range(start, start + count)]
        rows = [self.split.read(place.shard, place.row) for place in places]
        ids = np.stack([row[0] for row in rows])
        segment = np.stack([row[1] for row in rows])
        epochs = np.array([place.epoch for place in places], dtype=np.int64)
        samples = np.array([place.sample for place in places], dtype=np.int64)
        chosen, shown = masks(
            ids, segment, self._special, self.seed, epochs, samples, mask_share, self.mask_token_share
        )
        uniform = uniforms(self.seed, epochs, samples, ids.shape[1], "replacement")
        # Indices are found here, on the host: on a device, looking for them would make the host wait.
        masked = np.flatnonzero(chosen)
        parts = (ids, segment, masked, shown.reshape(-1)[masked], uniform.reshape(-1)[masked])
        return Batch(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def state(self, step: int) -> LoaderState:
        """The state after ``step`` global steps."""
        samples = step * self.global_batch
        return LoaderState(self.fingerprint, self.settings, self.seed, samples // self.samples, samples)

    def check(self, state: dict[str, object]) -> int:
        """The global step that a saved state stands for; raises UserError if it belongs to other data or settings."""
        ours = self.state(0).to_dict()
        if state.get("version") != ours["version"]:
            raise UserError(f"loader state has version {state.get('version')}, this program reads {ours['version']}")
        for name, advice in (
            ("fingerprint", "point data.store at the store that the run began with, or start a new run"),
            ("settings", "restore those settings, or start a new run"),
            ("seed", "restore the seed, or start a new run"),
        ):
            if state.get(name) != ours[name]:
                raise UserError(
                    f"cannot resume: the checkpoint's data {name} is {state.get(name)}, "
                    f"this run's is {ours[name]}; {advice}"
                )
        return int(str(state["samples"])) // self.global_batch
