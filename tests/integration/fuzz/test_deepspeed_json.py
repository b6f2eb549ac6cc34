"""Whatever a DeepSpeed JSON holds, reading it gives an object that DeepSpeed can be given, or one line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from data_pipeline.errors import UserError
from electra_scale.recipe.deepspeed_json import KEYS, UNUSED, read_deepspeed_json, resolve_deepspeed_json
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.shipped import shipped_folder
from tests.support.instruments.fuzzing import explore

SHIPPED = [json.loads(path.read_text()) for path in sorted(shipped_folder("ds_configs").glob("*.json"))]
SCALARS = (
    st.sampled_from([None, True, False, 0, 1, 2, 3, -1, 1.5, 5e8, 1e400, "auto", "", "fp32", "AdamW", "cpu", "\ud800"])
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
)
NAMES = st.sampled_from(sorted({part for key in [*KEYS, *UNUSED] for part in key.split(".")})) | st.text(max_size=8)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3))


def places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every object in a JSON and each of its keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield content, key
            yield from places(value)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """A shipped file with some values, keys or bytes changed."""
    content: Any = copy.deepcopy(draw(st.sampled_from(SHIPPED)))
    for _ in range(draw(st.integers(0, 3))):
        holder, key = draw(st.sampled_from(list(places(content)) or [({}, "")]))
        change = draw(st.sampled_from(["value", "remove", "rename", "add", "unused"]))
        if change == "value":
            holder[key] = draw(VALUES)
        elif change == "add":
            holder[draw(NAMES)] = draw(VALUES)
        elif change == "unused":
            section, _, name = draw(st.sampled_from(sorted({*KEYS, *UNUSED}))).rpartition(".")
            inner = content.setdefault(section, {}) if section and "." not in section else content
            (inner if isinstance(inner, dict) else content)[name] = draw(VALUES)
        elif holder:
            value = holder.pop(key)
            if change == "rename":
                holder[draw(NAMES)] = value
    data = json.dumps(content).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 4)) == 0:
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 20))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + length :]
    return draw(st.sampled_from([data, data, data, data, json.dumps(draw(VALUES)).encode("utf-8", "surrogatepass")]))


def accepted_by_deepspeed(resolved: dict[str, Any], path: str) -> str:
    """DeepSpeed's own class of settings, which takes seconds to import: only where there is time."""
    if "FUZZ_SECONDS" not in os.environ:
        return "read"
    from deepspeed.runtime.config import DeepSpeedConfig

    from electra_scale.train.engine.engine import refusing

    with refusing(f"DeepSpeed refuses {path}", "change what it names"):
        DeepSpeedConfig(resolved)
    return "taken by DeepSpeed"


def test_any_deepspeed_json_is_read_or_refused_in_one_line_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "given.json"

    def attempt() -> str:
        content = read_deepspeed_json(str(path))
        resolved = resolve_deepspeed_json(content, AdamWSettings(), 5e-4, 8, 2, 1, 1_000_000, str(path))
        return accepted_by_deepspeed(resolved, str(path))

    def answer(data: bytes) -> str:
        path.write_bytes(data)
        try:
            return attempt()
        except UserError as error:
            refusal = str(error)
        assert str(path) in refusal
        assert "\n" not in refusal
        return "refused by DeepSpeed" if "DeepSpeed refuses" in refusal else "refused"

    counts = explore(texts(), answer, examples=40)
    assert counts["refused"] > 0
