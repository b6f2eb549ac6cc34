"""What may change when a run is resumed: a rule for every setting of the recipe and every key of the DeepSpeed JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data_pipeline.errors import UserError
from electra_scale.recipe.deepspeed_json import Rule, key_of, leaves
from electra_scale.recipe.kinds import SEAMS
from electra_scale.recipe.optimizer import PARTS, PartSettings
from electra_scale.recipe.parse import recipe_to_dict
from electra_scale.recipe.phases import learning_rate, phases
from electra_scale.recipe.recipe import Recipe

_ORDER = "the order of the data follows from it"
_SHAPE = "the weights were made for it"
_TRAINED = "the weights were trained with it"
_START = "only the start of a run reads it"
_OVER = "the generator's warm-up is over"

RULES: dict[str, tuple[Rule, str]] = {
    "run_dir": ("free", "a run folder may be moved"),
    "deepspeed": ("free", "the file is compared key by key"),
    "seed": ("refused", "order, masks and draws follow from it"),
    "data.store": ("free", "a copy elsewhere; its fingerprint must be the same"),
    "data.sequence_length": ("refused", _ORDER),
    "data.mask_share": ("applied", ""),
    "data.mask_token_share": ("applied", ""),
    "data.streams": ("refused", _ORDER),
    "data.shuffle_window": ("refused", _ORDER),
    "data.packing": ("refused", _ORDER),
    "data.packing_window": ("refused", _ORDER),
    "data.attend_across_documents": ("refused", "it decides what a row of the data is"),
    "data.mixture": ("refused", _ORDER),
    "data.prefetch_threads": ("free", ""),
    "data.prefetch_shards": ("free", ""),
    "data.give_up_minutes": ("free", ""),
    "data.cache.folder": ("free", ""),
    "data.cache.limit_gb": ("free", ""),
    "model.embedding": ("refused", _SHAPE),
    "model.discriminator.layers": ("refused", _SHAPE),
    "model.discriminator.hidden": ("refused", _SHAPE),
    "model.discriminator.ffn": ("refused", _SHAPE),
    "model.discriminator.heads": ("refused", _SHAPE),
    "model.generator.layers": ("refused", _SHAPE),
    "model.generator.hidden": ("refused", _SHAPE),
    "model.generator.ffn": ("refused", _SHAPE),
    "model.generator.heads": ("refused", _SHAPE),
    "model.max_positions": ("refused", _SHAPE),
    "model.dropout": ("applied", ""),
    "model.attention_dropout": ("applied", ""),
    "model.activation_checkpointing": ("free", ""),
    "model.compile": ("applied", "sums are added in another order, and dropout drops other numbers"),
    "model.exported_dropout": ("free", "only an export reads it"),
    "model.init_std": ("free", _START),
    "model.init": ("free", _START),
    "model.position_init": ("free", _START),
    "model.init_from": ("free", _START),
    "model.init_networks": ("free", _START),
    "model.cooccurrence_embeddings": ("free", _START),
    "model.unigram_bias": ("free", _START),
    "architecture.kind": ("refused", _SHAPE),
    "architecture.token_types": ("refused", _SHAPE),
    "architecture.layer_norm_eps": ("refused", _TRAINED),
    "architecture.global_every": ("refused", _TRAINED),
    "architecture.window": ("refused", _TRAINED),
    "architecture.global_theta": ("refused", _TRAINED),
    "architecture.local_theta": ("refused", _TRAINED),
    "sharing.kind": ("refused", _SHAPE),
    "corruption.kind": ("refused", "the checkpoint has the networks of its kind"),
    "corruption.sampler": ("applied", "a head of another sampler starts fresh, one without a use is left out"),
    "corruption.temperature": ("applied", ""),
    "corruption.temperature_end": ("applied", ""),
    "corruption.weight_power": ("applied", ""),
    "corruption.allow_original": ("applied", ""),
    "corruption.mixture": ("applied", ""),
    "corruption.weight_clip": ("applied", ""),
    "corruption.start_after": ("applied", "counted from the start of the joint phase"),
    "corruption.look_ahead": ("applied", ""),
    "corruption.focal_gamma": ("applied", ""),
    "corruption.sampler_weight": ("applied", ""),
    "corruption.head.width": ("applied", "the head starts fresh"),
    "corruption.head.own_token": ("applied", "the head starts fresh"),
    "corruption.head.reaches_encoder": ("applied", ""),
    "corruption.head.form": ("applied", ""),
    "corruption.head.floor": ("applied", ""),
    "corruption.head.target": ("applied", ""),
    "corruption.head.normaliser": ("applied", ""),
    "corruption.head.shuffled": ("applied", ""),
    "corruption.head.learning_rate_scale": ("applied", ""),
    "corruption.head.clip": ("applied", ""),
    "task.kind": ("refused", "the checkpoint has the heads of its kind"),
    "task.discriminator_weight": ("applied", ""),
    "optimizer.kind": ("refused", "the checkpoint has the state of its kind"),
    "optimizer.learning_rate": ("applied", ""),
    "optimizer.generator_rate": ("applied", "not from 0 in the joint phase, since the optimizer state is gone"),
    "optimizer.betas": ("applied", ""),
    "optimizer.eps": ("applied", ""),
    "optimizer.weight_decay": ("applied", ""),
    "optimizer.clip": ("applied", ""),
    "optimizer.most_skipped": ("applied", ""),
    "optimizer.parts.*.rate": ("applied", ""),
    "optimizer.parts.*.schedule": ("applied", ""),
    "optimizer.parts.*.betas": ("applied", ""),
    "optimizer.parts.*.weight_decay": ("applied", ""),
    "optimizer.parts.*.clip": ("applied", ""),
    "optimizer.parts.*.replicated": ("refused", "the checkpoint keeps the part's state in another file"),
    "optimizer.parts.*.frozen": ("applied", "a part can be frozen; not thawed, since its optimizer state is gone"),
    "batch.global_batch": ("refused", _ORDER),
    "batch.most_per_device": ("applied", "sums are added in another order"),
    "schedule.steps": ("applied", "the schedule is made anew over them; to 0 refused in the joint phase"),
    "schedule.warmup_steps": ("applied", "the schedule is made anew with them"),
    "generator_warmup.steps": ("applied", "until the warm-up is over, and not below the checkpoint's step"),
    "generator_warmup.warmup_steps": ("applied", "until the warm-up is over"),
    "generator_warmup.learning_rate": ("applied", "until the warm-up is over"),
    "generator_warmup.mask_share": ("applied", "until the warm-up is over"),
    "generator_warmup.discriminator_from_generator": ("applied", "until the joint phase has begun"),
    "checkpoint.every": ("free", "applied with corruption.look_ahead, which draws nothing ahead of a save"),
    "checkpoint.keep": ("free", ""),
    "checkpoint.keep_every": ("free", ""),
    "checkpoint.upload": ("free", ""),
    "checkpoint.stop_signal": ("free", ""),
    "logging.every": ("free", ""),
    "logging.evaluate_every": ("free", ""),
    "logging.evaluate_samples": ("free", ""),
    "logging.pairs": ("free", ""),
    "logging.probe_every": ("free", ""),
    "logging.probe_samples": ("free", ""),
    "logging.probe_draws": ("free", ""),
    "logging.peak_tflops": ("free", ""),
    "logging.tracker": ("free", ""),
    "logging.stuck_minutes": ("free", ""),
}
"""By setting, and the reason or the condition; docs/checkpoints.md has the same table. ``*`` is the name of a part."""

_JSON = "DeepSpeed JSON: "
_DRAWN_FROM = ("corruption.", "data.mask", "model.")
_OF_WARMUP = ("embeddings", "generator", "generator_head")


@dataclass(frozen=True)
class Change:
    """A setting that another value was given at a resume, and what becomes of it."""

    key: str
    old: Any
    new: Any
    rule: Rule
    reason: str

    def line(self, step: int) -> str:
        """For the log of a run that resumes at ``step``."""
        what = f"{self.key} changed at step {step} from {_shown(self.old)} to {_shown(self.new)}"
        if self.rule == "free":
            return f"{what}, which has no effect: {self.reason}"
        return what

    def record(self, step: int) -> dict[str, Any]:
        """For ``changes.jsonl``."""
        return {"step": step, "setting": self.key, "from": self.old, "to": self.new}


@dataclass(frozen=True)
class Settings:
    """What a start of a run is made of: its recipe, and the content of its DeepSpeed JSON where that is known."""

    recipe: Recipe
    deepspeed: Mapping[str, Any] | None


def rule_of(key: str) -> tuple[Rule, str]:
    """The rule of a setting of the recipe, or of a key of the DeepSpeed JSON."""
    if key.startswith(_JSON):
        known = key_of(key.removeprefix(_JSON))
        return ("free", "") if known is None else (known.rule, "the checkpoint was written with it")
    section, _, name = key.partition("optimizer.parts.")
    if not section and name:
        return RULES[f"optimizer.parts.*.{name.partition('.')[2]}"]
    return RULES.get(key, ("refused", "no rule says that it may change"))


def changes(before: Settings, now: Settings, phase: str, step: int) -> list[Change]:
    """What is changed where a run resumes at ``step``, in ``phase``, and is worth a line.

    Raises UserError, in one line with all values, for what may not change.
    """
    found = list(_differences(before, now, phase, step))
    refused = [change for change in found if change.rule == "refused"]
    if refused:
        values = "; ".join(
            f"{change.key} is {_shown(change.new)}, the run has {_shown(change.old)} ({change.reason})"
            for change in refused
        )
        what = "this value" if len(refused) == 1 else "these values"
        raise UserError(f"cannot resume: {values}; restore {what} of the run, or start a new run with --run_dir")
    return [change for change in found if change.rule == "applied" or change.reason in (_START, _OVER)]


def rate_line(before: Recipe, now: Recipe, step: int) -> str | None:
    """What the learning rate does at the first step after ``step``, if another schedule has another one there."""
    old, new = _rate(before, step), _rate(now, step)
    if old == new:
        return None
    end = f" at the end of {before.total_steps} steps" if step >= before.total_steps else ""
    verb = "jumps" if new > 2 * old else "goes"
    return (
        f"the learning rate of step {step + 1} {verb} from {old:.3g}{end} to {new:.3g}: the schedule is made anew over "
        f"{now.total_steps} steps"
    )


def draws_differ(found: list[Change]) -> bool:
    """Whether replacements that were drawn before would be drawn otherwise now."""
    return any(change.rule == "applied" and change.key.startswith(_DRAWN_FROM) for change in found)


def settings_of(recipe: Recipe) -> dict[str, Any]:
    """Every setting by its path, the parts of the optimizer in full."""
    content = recipe_to_dict(recipe)
    mixture = content["data"].pop("mixture")
    given = content["optimizer"].pop("parts", {})
    found = leaves(content) | {"data.mixture": mixture}
    for part in PARTS:
        own = asdict(PartSettings()) | given.get(part, {})
        found |= {f"optimizer.parts.{part}.{name}": value for name, value in own.items()}
    return found


def _differences(before: Settings, now: Settings, phase: str, step: int) -> Iterator[Change]:
    old, new = settings_of(before.recipe), settings_of(now.recipe)
    other_kinds = [f"{seam}." for seam in SEAMS if old[f"{seam}.kind"] != new[f"{seam}.kind"]]
    for key in [*old, *(key for key in new if key not in old)]:
        # Of a section of another kind the kind says it all.
        if old.get(key) == new.get(key) or (key.startswith(tuple(other_kinds)) and not key.endswith(".kind")):
            continue
        rule, reason = _decide(key, old.get(key), new.get(key), before, now, phase, step)
        yield Change(key, old.get(key), new.get(key), rule, reason)
    if before.deepspeed is None or now.deepspeed is None:
        return
    was, is_now = leaves(before.deepspeed), leaves(now.deepspeed)
    for path in [*was, *(path for path in is_now if path not in was)]:
        known = key_of(path)
        default = None if known is None else known.default
        values = was.get(path, default), is_now.get(path, default)
        # What no longer may stand in a file is refused where the file is read.
        if values[0] == values[1] or known is None:
            continue
        yield Change(f"{_JSON}{path}", *values, *rule_of(f"{_JSON}{path}"))


def _decide(key: str, old: Any, new: Any, before: Settings, now: Settings, phase: str, step: int) -> tuple[Rule, str]:
    """The rule of a setting, where it depends on how far the run is or on the values."""
    rule, reason = rule_of(key)
    if key == "generator_warmup.steps":
        if phase == "joint":
            return "refused", f"the joint phase began after step {old}"
        return (rule, reason) if new >= step else ("refused", f"the checkpoint is at step {step} of that phase")
    if key == "schedule.steps" and new == 0 and phase == "joint":
        return "refused", f"the joint phase began after step {before.recipe.generator_warmup.steps}"
    if key == "generator_warmup.discriminator_from_generator":
        # The last checkpoint of the warm-up is before the border.
        return (rule, reason) if phase == "generator_warmup" else ("free", _OVER)
    if key.startswith("generator_warmup.") and (phase == "joint" or step >= now.recipe.generator_warmup.steps):
        return "free", _OVER
    if key == "optimizer.generator_rate" and phase == "joint" and old == 0:
        return "refused", "the frozen generator has no optimizer state to resume with"
    if key.startswith("optimizer.parts.") and key.endswith((".frozen", ".replicated")):
        if phase != "joint" and key.split(".")[2] not in _OF_WARMUP:
            return "applied", ""
        if key.endswith(".frozen") and not new:
            return "refused", "a frozen part has no optimizer state to resume with"
    if key == "checkpoint.every" and now.recipe.corruption.looks_ahead:
        return "applied", ""
    return rule, reason


def _rate(recipe: Recipe, step: int) -> float:
    """The learning rate of the step after ``step``; 0 after the end."""
    plan = next((plan for plan in phases(recipe) if step < plan.last), None)
    return 0.0 if plan is None else learning_rate(plan, step, recipe)


def _shown(value: Any) -> str:
    if value is None:
        return "unset"
    return str(value).lower() if isinstance(value, bool) else str(value)
