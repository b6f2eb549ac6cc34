"""The card of a fine-tuned model, from the result of its seeds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

from electra_scale.export.card import (
    CARD,
    metric_id,
    metric_value,
    model_card,
    number,
    sentences,
    table,
    with_error,
)
from electra_scale.export.scores import task_type

_PIPELINE = """```python
from transformers import pipeline

model = pipeline("{task}", model=".")  # the folder of this file, or the model's name on the hub
print(model({example}))
```"""

_QUESTIONS = """```python
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

folder = "."  # the folder of this file, or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
question, context = "Who wrote the letter?", "The letter was written by the captain of the ship."
batch = tokenizer(question, context, return_tensors="pt", truncation="only_second", max_length={length})
with torch.no_grad():
    answer = model(**batch)
first, last = int(answer.start_logits[0].argmax()), int(answer.end_logits[0].argmax())
print(tokenizer.decode(batch.input_ids[0, first : last + 1]))
```"""


@dataclass(frozen=True)
class FineTunedCard:
    """What a fine-tuned model's card is made of.

    Attributes:
        folder: of the model, with its ``config.json``.
        base: the model that was fine-tuned, as the user named it; ``base_folder`` is its folder, whose card tells
            language and licence.
        result: what ``result.json`` holds.
        seed: of the model in the folder.
        pairs: its inputs are two texts.
        notes: sentences on what was cut, left out or changed of the task's rows.
        licence: the hub's identifier; that of the base's card if not given.
    """

    folder: Path
    base: str
    base_folder: Path
    result: Mapping[str, Any]
    seed: int
    pairs: bool = False
    notes: Sequence[str] = ()
    licence: str | None = None

    def card(self) -> ModelCard:
        """The card; the same facts give the same text."""
        result, config = self.result, json.loads((self.folder / "config.json").read_text("utf-8"))
        kind, task = task_type(result), str(result["task"])
        front = _front_matter(self.base_folder)
        base, on_hub = self.base.removeprefix("random:"), not Path(self.base.removeprefix("random:")).exists()
        shown = base if on_hub else Path(base).resolve().name
        what = f"random weights of the size of {shown}" if result["random"] else shown
        if result["step"] is not None:
            what += f", step {result['step']:,}"
        about = f"`{(config.get('architectures') or ['?'])[0]}`: {what}, fine-tuned on `{task}` (seed {self.seed})."
        labels = [str(label) for label in (config.get("id2label") or {}).values()]
        sections = {
            "Use": self._use(kind),
            "Labels": ", ".join(f"`{label}`" for label in labels) if kind != "question-answering" else "",
            "Scores": self._scores(),
            "Fine-tuning": f"```yaml\n{yaml.safe_dump(dict(result['settings']), sort_keys=False).rstrip()}\n```",
            "Limits": sentences(list(self._limits())),
        }
        return model_card(
            f"{shown} {task}",
            about,
            sections,
            results=list(self._results(kind)),
            licence=self.licence or _licence(front),
            language=front.get("language"),
            pipeline=kind,
            tags=["electra-scale", task],
            base_model=base if on_hub else None,
        )

    def _use(self, kind: str) -> str:
        if kind == "question-answering":
            return _QUESTIONS.format(length=self.result["settings"].get("length", 384))
        example = '"The ship left the harbour at noon."'
        if self.pairs:
            example = '{"text": "The ship left at noon.", "text_pair": "At noon the ship was gone."}'
        return _PIPELINE.format(task=kind, example=example)

    def _own(self) -> Mapping[str, float]:
        """Scores of the seed in the folder."""
        return next((each["scores"] for each in self.result["seeds"] if each["seed"] == self.seed), {})

    def _scores(self) -> str:
        result, own = self.result, self._own()
        rows = [
            (name, number(own.get(name)), with_error(mean, result["deviation"].get(name)))
            for name, mean in result["mean"].items()
        ]
        seeds = len(result["seeds"])
        text = f"On the split `{result['split']}`, this model, and mean and deviation of all {seeds} seeds:\n\n"
        if seeds == 1:
            text = f"On the split `{result['split']}`; other seeds were not tried:\n\n"
        return text + table(("metric", "this model", "all seeds"), rows)

    def _results(self, kind: str) -> Iterator[EvalResult]:
        result = self.result
        for name, value in self._own().items():
            yield EvalResult(
                kind,
                str(result["task"]),
                str(result["task"]),
                metric_id(name),
                metric_value(value),
                dataset_split=str(result["split"]),
                metric_name=name,
            )

    def _limits(self) -> Iterator[str]:
        if len(self.result["seeds"]) > 1:
            yield (
                f"It is the best of {len(self.result['seeds'])} seeds on the split that the scores are of, which "
                "flatters it: the mean is the better estimate."
            )
        yield from (note if note.endswith(".") else f"{note}." for note in self.notes)
        yield "Nobody has examined the text or the model for personal data, social bias or harmful content."


def _licence(front: Mapping[str, Any]) -> str | None:
    """The licence that a card names; None for several, of which nobody here can say which hold."""
    found = front.get("license")
    return found if isinstance(found, str) else None


def _front_matter(folder: Path) -> dict[str, Any]:
    """What the card of a folder says at its top; nothing if it has none that can be read."""
    try:
        return dict(ModelCard.load(folder / CARD, ignore_metadata_errors=True).data.to_dict())
    except Exception:  # the library raises what the YAML leads to
        return {}
