"""DeepSpeed: the one module that knows it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.places.plain_path import plain_path
from electra_scale.cluster.ranks import Alone
from electra_scale.corruption.corruption import Clock, Statistic
from electra_scale.data.batch import Batch
from electra_scale.model.attention.layout import Layout
from electra_scale.optim.adamw import build_optimizer
from electra_scale.optim.parts import parts_of
from electra_scale.optim.replicated import ReplicatedOptimizer
from electra_scale.recipe.optimizer import PARTS, AdamWSettings
from electra_scale.tasks.module import GlobalCounts, PretrainModule
from electra_scale.train.checkpoint import checksums
from electra_scale.train.checkpoint.checksums import Sums
from electra_scale.train.checkpoint.full_disk import writing
from electra_scale.train.engine import pickles, universal
from electra_scale.train.engine.lean_deepspeed import (
    UNIVERSAL_CHECKPOINT_INFO,
    UNIVERSAL_CHECKPOINT_VERSION_KEY,
    UNIVERSAL_CHECKPOINT_VERSION_VALUE,
    deepspeed,
)
from electra_scale.train.engine.regrouped import load_regrouped
from electra_scale.train.engine.weights import load_weights
from electra_scale.train.engine.world import World

_WEIGHTS = "mp_rank_00_model_states.pt"
"""Weights of all parameters in a checkpoint, also of those that the phase does not train."""

_OF_STATE = {"params", "lr", "step"}
"""What a group of parameters has besides its settings."""

_CHECKS_NORM = "is_invalid_grad_norm"
"""What the step of ZeRO 1 and 2 calls, in DeepSpeed 0.19.8, to skip an update whose norm is not finite."""

_OF_RANK = re.compile(r"_pp_rank_(\d+)_")


class Engine:
    """A DeepSpeed engine for one phase of a run."""

    def __init__(
        self,
        module: PretrainModule,
        deepspeed_json: dict[str, Any],
        optimizer: AdamWSettings,
        world: World,
        source: str = "",
    ) -> None:
        """``source`` names the DeepSpeed JSON in messages; raises UserError if DeepSpeed refuses it."""
        self.world = world
        self.module = module
        parts = parts_of(module, optimizer)
        method = build_optimizer(optimizer)
        self.peak_rate = float(deepspeed_json["optimizer"]["params"]["lr"])
        self._refused = False
        self._norm: Tensor | None = None
        self._norm_type = torch.float32
        self._compute_norm: Callable[[], Tensor] | None = None
        self.accumulation = int(deepspeed_json["gradient_accumulation_steps"])
        with (
            refusing(f"DeepSpeed refuses {source or 'its JSON'}", "change what it names"),
            # Its optimizer for stage 1 in bf16 prints the memory of the process.
            contextlib.redirect_stdout(io.StringIO()),
        ):
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=module,
                model_parameters=method.groups([part for part in parts if not part.replicated]),
                config=deepspeed_json,
                dist_init_required=False,
            )
        self._skip_what_is_not_finite()
        self._replicated = [ReplicatedOptimizer(part, method, world.sum) for part in parts if part.replicated]
        self.replicated_norms: dict[str, float] = {one.part.name: 0.0 for one in self._replicated}

    @property
    def loss_scale(self) -> float:
        """Factor that undoes the engine's averaging over ranks and micro-batches."""
        return float(self.world.size * self.accumulation)

    def forward_backward(
        self, batch: Batch, layout: Layout, clock: Clock, counts: GlobalCounts, detailed: bool, ahead: Any = None
    ) -> list[Statistic]:
        """One micro-batch: add its gradients, give its statistics, those for all metrics if ``detailed``."""
        with self.world.stopwatch.part("forward"):
            loss, statistics = self._engine(batch, layout, clock, counts, self.loss_scale, detailed, ahead)
        with self.world.stopwatch.part("backward"):
            self._engine.backward(loss)
            self._engine_step_if_inside()
        return statistics

    def _engine_step_if_inside(self) -> None:
        # DeepSpeed counts micro-batches in step(); inside the accumulation it only counts.
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()

    def _skip_what_is_not_finite(self) -> None:
        """Have DeepSpeed leave weights and moments alone where a gradient is not finite, in bf16 too, or refused."""
        wrapped = self._engine.optimizer
        if not hasattr(wrapped, "has_overflow"):
            # Stage 1 with bf16 has an optimizer of its own, which looks at the norm.
            return
        # A norm is finite only where every gradient is. A DeepSpeed whose step does not ask that of the norm, which it
        # computes anyway, has to scan them.
        scans = None if _CHECKS_NORM in type(wrapped).step.__code__.co_names else wrapped.has_overflow

        def has_overflow(*arguments: Any, **options: Any) -> bool:
            return self._refused or (scans is not None and bool(scans(*arguments, **options)))

        wrapped.check_grad_overflow = True
        wrapped.has_overflow = has_overflow
        # Gradients that are offloaded have their norms on the host already.
        if scans is None and wrapped.compute_grad_norm and not wrapped.cpu_offload:
            self._compute_norm = wrapped.scaled_global_norm
            wrapped.scaled_global_norm = self._known_norm

    def _known_norm(self) -> Tensor:
        """What DeepSpeed asks for in its step, on the host, where it decides by it."""
        assert self._norm is not None
        return self._norm

    def _refuse(self) -> None:
        self._refused = True
        for gradient in getattr(self._engine.optimizer, "fp32_groups_gradient_flat_partition", ()):
            gradient.fill_(math.nan)

    def gather_norms(self) -> Tensor:
        """Sum the gradients of replicated parts over ranks; gives norms (1 + N,) on the device, for :meth:`step`.

        First that of the global gradient without replicated parts, before clipping and scaled as DeepSpeed has it:
        below 0 or not finite if the gradient is not finite, and 0 where only DeepSpeed's step computes it. Then those
        of the parts.
        """
        # The loss was scaled for an engine that averages over ranks.
        norms = [one.gather(1 / self.world.size).double() for one in self._replicated]
        own = self._compute_norm
        scaled = (torch.zeros(()) if own is None else own()).reshape(()).to(self.world.device)
        self._norm_type = scaled.dtype
        return torch.stack([scaled.double(), *norms])

    def step(self, learning_rate: float, refuse: bool = False, norms: Sequence[float] | None = None) -> bool:
        """Update the weights after the last micro-batch, unless ``refuse`` or a gradient is not finite.

        ``norms``: of :meth:`gather_norms`, for whoever reads other numbers of the step at the same time; without
        them it is called here. Returns whether there was an update; all ranks get the same, and without one weights and
        optimizer state are what they were.
        """
        with self.world.stopwatch.part("optimizer"):
            return self._step(learning_rate, refuse, *(self.gather_norms().tolist() if norms is None else norms))

    def _step(self, learning_rate: float, refuse: bool, norm: float, *norms: float) -> bool:
        self._refused = False
        self._norm = torch.tensor(norm, dtype=self._norm_type)
        self.replicated_norms = {one.part.name: norm for one, norm in zip(self._replicated, norms, strict=True)}
        if refuse or not all(map(math.isfinite, norms)):
            self._refuse()
        for group in self._optimizer.param_groups:
            group["lr"] = (self.peak_rate if group.get("constant") else learning_rate) * group.get("rate", 1.0)
        self._engine.step()
        updated = bool(self._engine.was_step_applied())
        for one, norm in zip(self._replicated, norms, strict=True):
            if updated:
                one.step(one.part.at(learning_rate, self.peak_rate), norm)
            else:
                one.skip()
        return updated

    def gradient_norm(self) -> float:
        """Norm of the last step's global gradient, without that of replicated parts, before clipping."""
        return float(self._engine.get_global_grad_norm())

    def save(self, folder: Path, tag: str) -> Sums:
        """Write this rank's part of a checkpoint and give its checksums; every rank must call it.

        ``tag`` names a folder that is not there, or that only this start of the run has written into.
        Raises OneRankError where the disk does not take it.
        """
        info = {UNIVERSAL_CHECKPOINT_INFO: {UNIVERSAL_CHECKPOINT_VERSION_KEY: UNIVERSAL_CHECKPOINT_VERSION_VALUE}}
        with writing(folder / tag):
            self._engine.save_checkpoint(str(folder), tag=tag, client_state=info, save_latest=False)
            if self.world.main:
                for one in self._replicated:
                    torch.save(one.state(), folder / tag / f"{one.part.name}.pt")
            return checksums.sums_of(folder / tag, self._written(folder / tag))

    def _written(self, path: Path) -> list[str]:
        """Files of a save that this rank has written, in a folder that only the ranks of this save write into."""
        found = []
        for file in path.iterdir():
            of_rank = _OF_RANK.search(file.name)
            if (int(of_rank[1]) if of_rank else 0) == self.world.rank:
                found.append(file.name)
        return found

    def load(self, folder: Path, tag: str, ranks: int) -> list[str]:
        """Load weights and optimizer state, which ``ranks`` ranks have saved; every rank must call it.

        Another number of ranks than this world's, and other groups of parameters, go through the universal form, which
        the main rank makes. Rates, decay, betas, eps and clip stay those of the recipe. Returns a line for each head
        that starts fresh or is left out.
        """
        with pickles.restricted(folder / tag):
            return self._load(folder, tag, ranks)

    def _load(self, folder: Path, tag: str, ranks: int) -> list[str]:
        where = f"checkpoint {folder / tag}"
        own = [{key: group[key] for key in group.keys() - _OF_STATE} for group in self._optimizer.param_groups]
        clip = self._engine.optimizer.clip_grad
        saved = torch.load(folder / tag / _WEIGHTS, map_location="cpu", weights_only=True, mmap=True)
        fresh, lines = load_weights(self.module, saved["module"], where)
        names = [list(group) for group in self._engine._get_zero_param_shapes()]
        frozen = {name for name, parameter in self.module.named_parameters() if not parameter.requires_grad}
        regrouped = [list(group) for group in saved["param_shapes"]] != names or frozen != set(
            saved.get("frozen_param_fragments") or ()
        )
        advice = "resume with the settings that it was saved with, or remove it to resume from the one before"
        with refusing(f"{where} could not be loaded", advice):
            if regrouped or ranks != self.world.size:
                converted = self.world.from_main(lambda: universal.convert(folder / tag))
            if regrouped:
                lines.append(f"{where} was converted, since parameters are grouped otherwise now")
                base, parameters = self._engine.optimizer.optimizer, dict(self.module.named_parameters())
                load_regrouped(converted, base.param_groups, base.state, names, parameters)
                for name in ("global_steps", "global_samples", "skipped_steps"):
                    setattr(self._engine, name, saved[name])
            elif ranks == self.world.size:
                self._load_checkpoint(folder, tag)
            else:
                self._load_universal(converted)
        for group, settings in zip(self._optimizer.param_groups, own, strict=True):
            # What the recipe does not set any more, such as a constant rate, goes.
            for key in group.keys() - _OF_STATE - settings.keys():
                del group[key]
            group.update(settings)
        self._place_step_counts()
        self._engine.optimizer.clip_grad = clip
        for one in self._replicated:
            if one.part.name in fresh:
                continue
            file = folder / tag / f"{one.part.name}.pt"
            if not file.is_file():
                raise UserError(
                    f"checkpoint {folder / tag} has no {file.name}: it was written by an earlier release or is "
                    "damaged; resume with that release, or remove it to resume from the one before"
                )
            one.load(torch.load(file, map_location=self.world.device, weights_only=True))
        return lines

    def _place_step_counts(self) -> None:
        """Put the counts of updates where torch's AdamW looks for them: beside the weights if it is fused."""
        base = self._engine.optimizer.optimizer
        for group in base.param_groups:
            for flat in group["params"]:
                state = base.state.get(flat, {})
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(flat.device if group.get("fused") else "cpu", torch.float32)

    def _load_checkpoint(self, folder: Path, tag: str) -> None:
        # The weights are loaded already, and by other rules.
        with plain_path(folder) as plain:
            path, _ = self._engine.load_checkpoint(str(plain), tag=tag, custom_load_fn=lambda **_: None)
        if path is None:
            raise ValueError("a file of it is missing")

    def _load_universal(self, path: Path) -> None:
        log = logging.getLogger("DeepSpeed")
        level = log.level
        # It warns of missing tensor parallelism, which there is none of.
        log.setLevel(logging.ERROR)
        # The JSON has a key for it, but that would hold as long as the engine exists.
        self._engine._config.load_universal_checkpoint = True
        try:
            self._load_checkpoint(path.parent, path.name)
        finally:
            self._engine._config.load_universal_checkpoint = False
            log.setLevel(level)

    def fp32_state(self) -> dict[str, Tensor]:
        """All parameters of the module in float32, on every rank."""
        from deepspeed.utils import safe_get_full_fp32_param

        state = {}
        for name, parameter in self.module.named_parameters():
            full = safe_get_full_fp32_param(parameter)
            state[name] = (parameter.detach() if full is None else full).float().cpu().clone()
        return state

    def close(self) -> None:
        """Let go of hooks and buffers."""
        self._engine.destroy()


def consolidated_weights(folder: Path, tag: str) -> dict[str, Tensor]:
    """The float32 weights of a checkpoint, from all ranks' parts. Needs no process group.

    Raises UserError for a checkpoint whose files may run code.
    """
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    pickles.refuse_unsafe(folder / tag, Alone(torch.device("cpu")))
    with (
        pickles.restricted(folder / tag),
        plain_path(folder) as plain,
        # Its many lines name files by paths of this process, and its bars are for what takes a moment.
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        weights = dict(get_fp32_state_dict_from_zero_checkpoint(str(plain), tag=tag))
    for name in PARTS:
        file = folder / tag / f"{name}.pt"
        if file.is_file():
            state = torch.load(file, map_location="cpu", weights_only=True)
            prefix = f"electra.{name}" if any(key.startswith(f"electra.{name}.") for key in weights) else name
            weights |= {f"{prefix}.{key}": value for key, value in state["weights"].items()}
    return weights


@contextlib.contextmanager
def refusing(what: str, advice: str) -> Iterator[None]:
    """One line for what DeepSpeed refuses, by whatever exception; RuntimeErrors, of a device or a network, pass."""
    try:
        yield
    except Exception as error:
        kinds = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NotImplementedError)
        of_deepspeed = type(error).__module__.startswith("deepspeed")
        if not isinstance(error, (*kinds, TypeError, ValueError)) and not of_deepspeed:
            raise
        # The first lines name key and value.
        reason = " ".join(str(error).split("\n")[:3]).strip() or type(error).__name__
        raise UserError(f"{what} ({reason}); {advice}") from error
