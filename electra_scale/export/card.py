"""The README.md of a folder with a model: facts go in, a model card of the Hugging Face hub comes out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from safetensors import safe_open

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes

CARD = "README.md"

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*")

_METRICS = {
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Metrics whose identifier on the hub is another one."""


class Facts(Protocol):
    """What a card is made of."""

    def card(self) -> ModelCard:
        """The card; the same facts give the same text."""


def write_card(folder: Path, facts: Facts) -> None:
    """Write the card into the folder of a model. Raises UserError if the folder can't be written."""
    write_bytes(folder / CARD, str(facts.card()).encode())


def parameters_in(folder: Path) -> int:
    """Parameters in the safetensors of a folder, by their shapes alone."""
    found = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found += sum(math.prod(file.get_slice(name).get_shape()) for name in list(file.keys()))
    return found


def check_licence(licence: str | None) -> None:
    """Raise UserError if ``licence`` cannot be the hub's identifier of one."""
    if licence is not None and not _LICENCE.fullmatch(licence):
        raise UserError(
            f"--license {licence!r} is no identifier of a licence; give one of the hub's, such as apache-2.0 or "
            "cc-by-4.0, or other"
        )


def model_card(
    name: str,
    about: str,
    sections: Mapping[str, str],
    *,
    results: Sequence[EvalResult] = (),
    licence: str | None = None,
    language: str | None = None,
    pipeline: str | None = None,
    tags: Sequence[str] = (),
    base_model: str | None = None,
) -> ModelCard:
    """A card with front matter, a title, what the model is, and sections of Markdown by their headings."""
    data = ModelCardData(
        model_name=name,
        eval_results=list(results) or None,
        library_name="transformers",
        pipeline_tag=pipeline,
        license=licence,
        language=language,
        base_model=base_model,
        tags=list(tags),
    )
    missing = (
        "No licence was given (--license), so nobody may assume one; whoever publishes the model adds `license:` at "
        "the top of this file."
    )
    texts = {**sections, "Licence": f"`{licence}`" if licence else missing}
    body = "\n\n".join(f"## {heading}\n\n{text.strip()}" for heading, text in texts.items() if text.strip())
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{about.strip()}\n\n{body}\n")


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown; a first column of names, then figures."""
    lines = [columns, ["---", *("---:" for _ in columns[1:])], *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """A figure for people; nothing for none."""
    return "" if value is None else f"{value:.3f}"


def with_error(value: float, error: float | None) -> str:
    """A figure and its error or deviation, where there is one."""
    return number(value) if error is None else f"{number(value)} ± {number(error)}"


def metric_id(name: str) -> str:
    """A metric's identifier on the hub."""
    return _METRICS.get(name, name)


def metric_value(value: float) -> float:
    """A figure as the front matter has it, without digits that mean nothing."""
    return round(value, 6)


def sentences(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
