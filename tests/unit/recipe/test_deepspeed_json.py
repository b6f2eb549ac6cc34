"""A DeepSpeed JSON is one that works here, or one line names the file, the key and what to do."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.shipped import find_deepspeed_json

SHIPPED: dict[str, Any] = json.loads(find_deepspeed_json("zero2").read_text())
MISSING = object()


def changed(**changes: Any) -> dict[str, Any]:
    """The shipped fp32 JSON with changes such as ``optimizer__params__lr=1``; ``MISSING`` takes a key away."""
    content = copy.deepcopy(SHIPPED)
    for name, value in changes.items():
        *parents, leaf = name.split("__")
        holder = content
        for parent in parents:
            holder = holder.setdefault(parent, {})
        if value is MISSING:
            del holder[leaf]
        else:
            holder[leaf] = value
    return content


def read(folder: Path, content: dict[str, Any] | bytes) -> dict[str, Any]:
    path = folder / "mine.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return read_deepspeed_json(str(path))


def refused(folder: Path, content: dict[str, Any] | bytes) -> str:
    with pytest.raises(UserError) as refusal:
        read(folder, content)
    text = str(refusal.value)
    assert text.startswith(f"DeepSpeed JSON {folder}/mine.json")
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is not valid JSON: the file is empty"),
        (b"{", "is not valid JSON: Expecting property name"),
        (b"[]", "must be an object, it is a list"),
        (b"null", "must be an object, it is a NoneType"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b'{"bf16": {}, "bf16": {}}', "bf16 is there twice"),
        (b'{"optimizer": {"type": "AdamW", "type": "Adam"}}', "type is there twice"),
        (b'{"gradient_clipping": NaN}', "NaN is not a number of JSON"),
        (b'{"gradient_clipping": ' + b"9" * 5000 + b"}", "is not valid JSON: Exceeds the limit"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_what_is_not_an_object_with_each_key_once_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    assert words in refused(tmp_path, content)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": MISSING}, 'there is no section optimizer; add {"type": "AdamW", "params": {"lr": "auto"'),
        ({"optimizer__type": MISSING}, 'optimizer.type is missing; write "AdamW"'),
        ({"optimizer__type": None}, "optimizer.type is None; it must be a text"),
        ({"optimizer__type": "Muon"}, "optimizer.type is Muon"),
        ({"optimizer__params": MISSING}, 'optimizer.params.lr is missing, and the recipe sets it; write "auto"'),
        ({"optimizer__params__eps": MISSING}, "optimizer.params.eps is missing"),
        ({"optimizer__params__lr": "1e-3"}, "optimizer.params.lr is '1e-3'; it must be a number above 0 or \"auto\""),
        ({"optimizer__params__betas": [0.9]}, "optimizer.params.betas is [0.9]; it must be two numbers"),
        ({"optimizer__params__betas": [0.9, 1]}, "optimizer.params.betas is [0.9, 1]; it must be two numbers"),
        ({"optimizer__params__maximize": True}, "optimizer.params.maximize is not supported"),
        ({"optimizer__params__momentum": 0.9}, "optimizer.params.momentum is not a setting of AdamW; remove it"),
        ({"optimizer": "AdamW"}, "optimizer is 'AdamW'; it must be an object"),
        ({"zero_optimization": MISSING}, "zero_optimization.stage is missing"),
        ({"zero_optimization": True}, "zero_optimization is True; it must be an object"),
        ({"zero_optimization__stage": 3}, "zero_optimization.stage is 3; it must be 1 or 2"),
        ({"zero_optimization__stage": "2"}, "zero_optimization.stage is '2'; it must be 1 or 2"),
        ({"zero_optimization__stage": True}, "zero_optimization.stage is True; it must be 1 or 2"),
        ({"zero_optimization__overlap_com": True}, "did you mean zero_optimization.overlap_comm?"),
        ({"zero_optimization__reduce_bucket_size": -1}, "reduce_bucket_size is -1; it must be a whole number"),
        (
            {"zero_optimization__offload_optimizer": {"device": "cpu"}},
            "zero_optimization.offload_optimizer is not supported: the optimizer's state stays on the devices",
        ),
        ({"fp16": {"enabled": True}}, "fp16 is not supported: enable bf16"),
        ({"fp16": {"enabled": "auto"}}, "fp16 is not supported"),
        ({"bf16": True}, "bf16 is True; it must be an object"),
        ({"bf16": {"enabled": "yes"}}, "bf16.enabled is 'yes'; it must be true or false"),
        ({"bf16": {"enabled": "auto"}}, 'bf16.enabled is "auto", but no setting of the recipe decides it'),
        ({"bfloat16": {"enabled": True}}, "bfloat16 is not supported: write bf16"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler is not supported: the recipe's schedule sets the rate"),
        ({"gradient_clipping": "1"}, "gradient_clipping is '1'; it must be a number of 0 or more"),
        ({"gradient_allreduce_op": "sum"}, "gradient_allreduce_op is not supported"),
        ({"train_batch_size": 1.5}, "train_batch_size is 1.5; it must be a whole number"),
        ({"gradient_cliping": 1.0}, "gradient_cliping is not a key that electra-scale knows; did you mean gradient_cl"),
        ({"steps_per_print": []}, "steps_per_print is []; it must be a whole number"),
    ],
)
def test_a_key_that_cannot_work_is_named_with_what_would(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refused(tmp_path, changed(**changes))


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    text = refused(tmp_path, changed(optimizer=MISSING, fp16={"enabled": True}, zero_optimization__stage=3))
    assert all(words in text for words in ("section optimizer", "fp16", "zero_optimization.stage is 3"))


def test_what_is_switched_off_may_stay_and_is_not_handed_to_deepspeed(tmp_path: Path) -> None:
    off = {
        "fp16": {"enabled": False, "loss_scale": "any"},
        "scheduler": None,
        "zero_optimization__offload_optimizer": {"device": "none"},
        "zero_optimization__stage3_max_live_parameters": 1e9,
        "wandb": {"enabled": False},
        "zero_optimization__reduce_bucket_size": 5e8,
    }
    resolved = resolve_deepspeed_json(read(tmp_path, changed(**off)), AdamWSettings(), 5e-4, 4, 2, 2, 1_000_000)
    assert resolved.keys() == SHIPPED.keys()
    assert "offload_optimizer" not in resolved["zero_optimization"]
    assert resolved["train_batch_size"] == 16
    bucket = resolved["zero_optimization"]["reduce_bucket_size"]
    assert (bucket, type(bucket)) == (500_000_000, int)


@pytest.mark.parametrize(("parameters", "numbers"), [(17_000_000, 17_000_000), (900_000_000, 500_000_000)])
def test_a_bucket_for_gradients_that_is_auto_has_room_for_all_and_at_most_deepspeeds_own(
    tmp_path: Path, parameters: int, numbers: int
) -> None:
    content = read(tmp_path, changed(zero_optimization__reduce_bucket_size="auto"))
    resolved = resolve_deepspeed_json(content, AdamWSettings(), 5e-4, 4, 2, 2, parameters)
    assert resolved["zero_optimization"]["reduce_bucket_size"] == numbers


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_batch_size": 7}, "train_batch_size is 7, the recipe gives 16 on 2 ranks"),
        ({"optimizer__params__weight_decay": 0.3}, "optimizer.params.weight_decay is 0.3, the recipe gives"),
        ({"optimizer__params__lr": 1e-3}, "optimizer.params.lr is 0.001, the recipe gives 0.0005"),
        ({"optimizer__params__betas": [0.8, 0.9]}, "optimizer.params.betas is [0.8, 0.9], the recipe"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, the recipe gives 1.0"),
        ({"gradient_clipping": MISSING}, "gradient_clipping is missing, the recipe gives 1.0"),
    ],
)
def test_a_value_that_the_recipe_overrules_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    content = read(tmp_path, changed(**changes))
    with pytest.raises(UserError, match=r'DeepSpeed JSON mine\.json: .*write "auto", or') as refusal:
        resolve_deepspeed_json(content, AdamWSettings(), 5e-4, 4, 2, 2, 1_000_000, "mine.json")
    assert words in str(refusal.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DeepSpeed JSON .*nothing\.json does not exist"):
        read_deepspeed_json(str(tmp_path / "nothing.json"))
    with pytest.raises(UserError, match="does not exist"):
        read_deepspeed_json(str(tmp_path))
