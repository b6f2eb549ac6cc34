"""A recipe's DeepSpeed JSON: its keys, reading it, filling what it leaves to the recipe. Does not import DeepSpeed."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from data_pipeline.errors import UserError
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.shipped import find_deepspeed_json

Rule = Literal["applied", "refused", "free"]
"""At a resume: ``applied`` from the next step on, ``refused``, or ``free``, since no weight depends on it."""


@dataclass(frozen=True)
class Form:
    """What a key must hold: ``text`` for messages, and whether a value is that."""

    text: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    # 5e8 is a float, and what many files have.
    return _is_number(value) and float(value).is_integer()


def one_of(*values: Any) -> Form:
    """One of a few values; True is none of the numbers."""
    shown = " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values)
    return Form(shown, lambda value: any(value == one and type(value) is type(one) for one in values))


FLAG = Form("true or false", lambda value: isinstance(value, bool))
WHOLE = Form("a whole number of at least 1", lambda value: _is_whole(value) and value >= 1)
NUMBER = Form("a number of 0 or more", lambda value: _is_number(value) and value >= 0)
ABOVE_ZERO = Form("a number above 0", lambda value: _is_number(value) and value > 0)
TEXT = Form("a text", lambda value: isinstance(value, str) and bool(value))
PAIR = Form(
    "two numbers of at least 0 and below 1",
    lambda value: (
        isinstance(value, list) and len(value) == 2 and all(_is_number(one) and 0 <= one < 1 for one in value)
    ),
)
SECTION = Form("an object", lambda value: isinstance(value, dict))
ANY = Form("anything", lambda value: True)
PRECISION = one_of("fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Key:
    """A key: what it holds, the rule at a resume, what DeepSpeed takes where it is missing, and who may fill it.

    ``auto`` marks a key that the recipe decides, so that ``"auto"`` may stand there.
    """

    form: Form
    rule: Rule
    default: Any = None
    auto: bool = False


LARGEST_BUCKET = 500_000_000
"""Numbers in DeepSpeed's buffer for gradients where the JSON has no ``reduce_bucket_size``, and at most with "auto"."""

KEYS: dict[str, Key] = {
    "train_batch_size": Key(WHOLE, "free", "auto", auto=True),
    "train_micro_batch_size_per_gpu": Key(WHOLE, "free", "auto", auto=True),
    "gradient_accumulation_steps": Key(WHOLE, "free", "auto", auto=True),
    "gradient_clipping": Key(NUMBER, "applied", 0.0, auto=True),
    "prescale_gradients": Key(FLAG, "applied", False),
    "gradient_predivide_factor": Key(ABOVE_ZERO, "applied", 1.0),
    "communication_data_type": Key(PRECISION, "applied"),
    "bf16": Key(SECTION, "refused"),
    "bf16.enabled": Key(FLAG, "refused", False),
    "bf16.check_grad_overflow": Key(FLAG, "applied", True),
    "bf16.immediate_grad_update": Key(FLAG, "applied", False),
    "data_types": Key(SECTION, "refused"),
    "data_types.grad_accum_dtype": Key(one_of("fp32", "bf16"), "refused"),
    "zero_optimization": Key(SECTION, "refused"),
    "zero_optimization.stage": Key(one_of(1, 2), "refused", 0),
    "zero_optimization.contiguous_gradients": Key(FLAG, "applied", True),
    "zero_optimization.reduce_scatter": Key(FLAG, "applied", True),
    "zero_optimization.reduce_bucket_size": Key(WHOLE, "applied", LARGEST_BUCKET, auto=True),
    "zero_optimization.use_multi_rank_bucket_allreduce": Key(FLAG, "applied", True),
    "zero_optimization.allgather_partitions": Key(FLAG, "applied", True),
    "zero_optimization.allgather_bucket_size": Key(WHOLE, "applied", 500_000_000),
    "zero_optimization.overlap_comm": Key(FLAG, "applied", False),
    "zero_optimization.round_robin_gradients": Key(FLAG, "refused", False),
    "zero_optimization.ignore_unused_parameters": Key(FLAG, "applied", True),
    "zero_optimization.compute_grad_norm": Key(one_of(True), "free", True),
    "zero_optimization.load_from_fp32_weights": Key(one_of(True), "free", True),
    "zero_optimization.sub_group_size": Key(WHOLE, "free", 1_000_000_000),
    "optimizer": Key(SECTION, "refused"),
    "optimizer.type": Key(TEXT, "refused", "AdamW"),
    "optimizer.legacy_fusion": Key(FLAG, "refused", False),
    "optimizer.params": Key(SECTION, "refused"),
    "optimizer.params.lr": Key(ABOVE_ZERO, "applied", "auto", auto=True),
    "optimizer.params.betas": Key(PAIR, "applied", "auto", auto=True),
    "optimizer.params.eps": Key(ABOVE_ZERO, "applied", "auto", auto=True),
    "optimizer.params.weight_decay": Key(NUMBER, "applied", "auto", auto=True),
    "optimizer.params.torch_adam": Key(FLAG, "refused", False),
    "optimizer.params.adam_w_mode": Key(FLAG, "refused", True),
    "optimizer.params.bias_correction": Key(FLAG, "refused", True),
    "optimizer.params.amsgrad": Key(FLAG, "refused", False),
    "optimizer.params.fused": Key(FLAG, "applied"),
    "optimizer.params.foreach": Key(FLAG, "refused"),
    # Of another optimizer that the type names, which refuses what it does not have.
    "optimizer.params.*": Key(ANY, "refused"),
    "zero_allow_untested_optimizer": Key(FLAG, "free", False),
    "steps_per_print": Key(WHOLE, "free"),
    "wall_clock_breakdown": Key(FLAG, "free", False),
    "memory_breakdown": Key(FLAG, "free", False),
    "dump_state": Key(FLAG, "free", False),
    # Read by models that ask DeepSpeed for it, which these do not.
    "activation_checkpointing": Key(SECTION, "free"),
    "activation_checkpointing.*": Key(ANY, "free"),
}
"""By path. A key that is not here is refused, unless it is one of ``UNUSED`` and switched off."""

UNUSED: dict[str, str] = {
    "fp16": "enable bf16, or neither for fp32: fp16's loss scaling skips steps",
    "bfloat16": "write bf16",
    "amp": "enable bf16, or neither for fp32",
    "torch_autocast": "enable bf16, or neither for fp32",
    "scheduler": "the recipe's schedule sets the rate at each step; see optimizer.learning_rate and schedule",
    "gradient_allreduce_op": "the loss is scaled for gradients that are averaged over ranks",
    "sparse_gradients": "no gradient here is sparse",
    "zero_optimization.offload_optimizer": "the optimizer's state stays on the devices; use more ranks for less each",
    "zero_optimization.offload_param": "weights stay on the devices, whole",
    "zero_optimization.cpu_offload": "the optimizer's state stays on the devices; use more ranks for less each",
    "zero_optimization.cpu_offload_param": "weights stay on the devices, whole",
    "zero_optimization.elastic_checkpoint": "a checkpoint is converted for another number of ranks as it is",
    "zero_optimization.parameter_alignment": "checkpoints hold unaligned parameters",
    "zero_optimization.zero_quantized_weights": "weights stay as they are on each device",
    "zero_optimization.zero_quantized_gradients": "gradients are exchanged as they are",
    "zero_optimization.zenflow": "the optimizer's state stays on the devices",
    "zero_optimization.legacy_stage1": "use stage 1 or 2 as it is today",
    "bf16.bf16_master_weights_and_grads": "the optimizer works in fp32",
    "bf16.bf16_optimizer_states": "the optimizer works in fp32",
    "optimizer.params.maximize": "the loss is to fall",
    "optimizer.params.capturable": "a step is not captured as a graph",
    "optimizer.params.differentiable": "nothing is derived through an update",
    "optimizer.params.max_grad_norm": "write gradient_clipping",
    "flops_profiler": "the run logs speed/tokens_per_second and speed/mfu itself",
    "comms_logger": "the run logs its speed itself",
    "tensorboard": "the run writes its own TensorBoard files",
    "wandb": "the run writes metrics.jsonl and TensorBoard files",
    "csv_monitor": "the run writes metrics.jsonl and TensorBoard files",
    "comet": "the run writes metrics.jsonl and TensorBoard files",
    "autotuning": "electra-scale plan proposes a size of micro-batch",
    "data_efficiency": "the recipe's data section decides what is read",
    "compression_training": "export the run, then compress",
    "hybrid_engine": "there is no inference in a run",
    "checkpoint": "checkpoints are the recipe's, section checkpoint",
    "compile": "the engine runs the model as it is",
    "aio": "nothing is offloaded",
    "tensor_parallel": "ranks share data only",
    "pipeline": "ranks share data only",
    "zero_force_ds_cpu_optimizer": "nothing is offloaded",
}
"""Keys that DeepSpeed knows and a run does not use, each with what to do; switched off they may stay in a file."""

_STAGE_3 = "zero_optimization.stage3_"
"""How the settings of stage 3 begin, which stages 1 and 2 do not read."""


def key_of(path: str) -> Key | None:
    """What is known of a key; None for one that a run does not use."""
    if path in KEYS or path in UNUSED:
        return KEYS.get(path)
    if path.startswith(_STAGE_3):
        return Key(ANY, "free")
    parent = path.rpartition(".")[0]
    while parent:
        if f"{parent}.*" in KEYS:
            return KEYS[f"{parent}.*"]
        parent = parent.rpartition(".")[0]
    return None


def problems(content: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """What is wrong with the keys of a DeepSpeed JSON and with what they hold, one clause each."""
    for name, value in content.items():
        path = f"{prefix}{name}"
        key = key_of(path)
        if key is None:
            # Known by its name alone, so that only what switches it off may stand there.
            if path not in UNUSED:
                yield f"{path} is not a key that electra-scale knows; {_nearest(path)}"
            elif not _is_off(value):
                yield f"{path} is not supported: {UNUSED[path]}; remove it"
        elif value == "auto" and key.form is not TEXT and key.form is not ANY:
            if not key.auto:
                yield f'{path} is "auto", but no setting of the recipe decides it; give {key.form.text}'
        elif value is None and key.default is None and key.form is not SECTION:
            continue
        elif not key.form.fits(value):
            yield f"{path} is {_shown(value)}; it must be {key.form.text}" + (' or "auto"' if key.auto else "")
        elif key.form is SECTION:
            yield from problems(value, f"{path}.")


def leaves(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every value by its path; sections are not among them."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            found |= leaves(value, f"{path}.")
        else:
            found[path] = value
    return found


def _is_off(value: Any) -> bool:
    """Whether a value switches off what its key is for."""
    if isinstance(value, Mapping):
        return not value or value.get("enabled") is False or dict(value) in ({"device": "none"}, {"device": None})
    return value is None or value is False


def _nearest(path: str) -> str:
    close = difflib.get_close_matches(path, KEYS, n=1, cutoff=0.7)
    return f"did you mean {close[0]}?" if close else "remove it"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_OF_RECIPE = ("lr", "betas", "eps", "weight_decay")
"""What the recipe decides of the optimizer."""


AUTO = "auto"
"""Instead of a file, in a recipe: the shipped one that fits the device."""


def chosen_json(given: str, bf16: bool) -> str:
    """The file that a recipe names; for ``auto`` the shipped one for a device with, or without, products in bf16."""
    if given != AUTO:
        return given
    return f"ds_configs/{'zero2_bf16' if bf16 else 'zero2'}.json"


def read_deepspeed_json(path: str) -> dict[str, Any]:
    """The DeepSpeed JSON of a recipe.

    Raises UserError, naming the file and the keys, if it is missing, broken, or asks for what can't work here.
    """
    content = parse_deepspeed_json(_text(path), path)
    found = [*problems(content), *_missing(content)]
    if found:
        raise UserError(f"DeepSpeed JSON {path}: {'; '.join(found)}")
    return content


def parse_deepspeed_json(text: str, path: str) -> dict[str, Any]:
    """The object that a file's text holds; raises UserError if it is not valid, or has a key twice."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"DeepSpeed JSON {path}: {twice} is there twice; keep one of them")
        return dict(pairs)

    def no_number(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        content = json.loads(text, object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        reason = error if text.strip() else "the file is empty"
        raise UserError(f"DeepSpeed JSON {path} is not valid JSON: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"DeepSpeed JSON {path} must be an object, it is a {type(content).__name__}")
    return content


def _text(path: str) -> str:
    try:
        return find_deepspeed_json(path).read_text("utf-8")
    except OSError as error:
        raise UserError(f"DeepSpeed JSON {path} cannot be read ({error.strerror}); check its permissions") from error
    except UnicodeDecodeError as error:
        raise UserError(f"DeepSpeed JSON {path} is not valid JSON: it is not UTF-8 text ({error})") from error


def _missing(content: dict[str, Any]) -> list[str]:
    """What has to be there and is not, or is not in the stages that run here."""
    found = []
    zero, optimizer = content.get("zero_optimization", {}), content.get("optimizer")
    if isinstance(zero, dict) and "stage" not in zero:
        found.append('zero_optimization.stage is missing; electra-scale runs stages 1 and 2: write {"stage": 2}')
    if "optimizer" not in content:
        found.append(
            'there is no section optimizer; add {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": '
            '"auto", "weight_decay": "auto", "torch_adam": true}}'
        )
    elif isinstance(optimizer, dict):
        if "type" not in optimizer:
            found.append('optimizer.type is missing; write "AdamW"')
        kind, params = str(optimizer.get("type", "AdamW")).lower(), optimizer.get("params", {})
        if kind == "muon":
            found.append('optimizer.type is Muon, whose two rates a schedule cannot set; write "AdamW"')
        if not isinstance(params, dict):
            return found
        of_adam = kind in ("adam", "adamw")
        # Another optimizer may lack such a setting and have others, but each has a rate.
        for name in _OF_RECIPE if of_adam else ("lr",):
            if name not in params:
                found.append(f'optimizer.params.{name} is missing, and the recipe sets it; write "auto"')
        for name in params:
            if of_adam and f"optimizer.params.{name}" not in KEYS.keys() | UNUSED.keys():
                found.append(f"optimizer.params.{name} is not a setting of AdamW; remove it")
    return found


def bucket_of(parameters: int) -> int:
    """What "auto" stands for in ``reduce_bucket_size``: room for the gradients of all parameters, and no more.

    Gradients are exchanged as with DeepSpeed's default, which reserves the same memory for every model.
    """
    return min(parameters, LARGEST_BUCKET)


def resolve_deepspeed_json(
    content: dict[str, Any],
    optimizer: AdamWSettings,
    learning_rate: float,
    micro_batch: int,
    accumulation: int,
    ranks: int,
    parameters: int,
    path: str = "",
) -> dict[str, Any]:
    """Fill every ``"auto"`` from the recipe and the number of ``parameters``; ``path`` names the file in messages.

    Raises UserError for an "auto" that no setting decides, and for a value that contradicts the recipe.
    """
    where_from = f"DeepSpeed JSON {path}".rstrip()
    values: dict[str, Any] = {
        "train_batch_size": micro_batch * accumulation * ranks,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": optimizer.clip,
        "optimizer.params.lr": learning_rate,
        "optimizer.params.betas": list(optimizer.betas),
        "optimizer.params.eps": optimizer.eps,
        "optimizer.params.weight_decay": optimizer.weight_decay,
    }
    filled = values | {"zero_optimization.reduce_bucket_size": bucket_of(parameters)}

    def fill(value: Any, where: str) -> Any:
        if isinstance(value, dict):
            paths = {key: f"{where}.{key}" if where else key for key in value}
            return {key: fill(item, paths[key]) for key, item in value.items() if paths[key] not in UNUSED}
        if value != "auto":
            key = key_of(where)
            return int(value) if key is not None and key.form is WHOLE and value is not None else value
        if where not in filled:
            raise UserError(f'{where_from}: {where} is "auto", but no setting of the recipe decides it; give a value')
        return filled[where]

    resolved: dict[str, Any] = fill(content, "")
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        resolved.setdefault(key, values[key])
    given = leaves(resolved)
    for key, wanted in values.items():
        # Without clipping nothing has to be said; what an optimizer has no setting for is no contradiction either.
        found = given.get(key, 0.0 if key == "gradient_clipping" else wanted)
        if found != wanted:
            what = f"{key} is {found}" if key in given else f"{key} is missing"
            raise UserError(
                f"{where_from}: {what}, the recipe gives {wanted} on {'1 rank' if ranks == 1 else f'{ranks} ranks'}; "
                'write "auto", or change the recipe'
            )
    return resolved
