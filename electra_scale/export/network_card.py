"""The card of a pre-trained network, from what its run has left behind."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult, ModelCard

from electra_scale.export.card import metric_id, metric_value, model_card, number, sentences, table, with_error
from electra_scale.export.run_facts import RunFacts
from electra_scale.model.architectures.architecture import Network
from electra_scale.recipe.kinds import method_of

_HELD_OUT = {
    "discriminator": ("eval/auc", "eval/discriminator_loss", "eval/pairs_swapped", "eval/pairs_replaced"),
    "generator": ("eval/generator_cross_entropy", "eval/generator_accuracy"),
}

_SHOWN = (
    ("loss/generator", "generator's training loss, nats"),
    ("loss/discriminator", "discriminator's loss, nats"),
    ("disc/auc", "AUC of detection"),
    ("gen/cross_entropy", "generator's cross-entropy at masked positions, nats"),
    ("gen/accuracy", "generator's accuracy at masked positions"),
    ("disc_loss_variance/masked", "variance of weight x loss over masked positions"),
    ("eval/discriminator_loss", "discriminator's loss, nats, held out"),
    ("eval/auc", "AUC of detection, held out"),
    ("eval/generator_cross_entropy", "generator's cross-entropy, nats, held out"),
    ("eval/generator_accuracy", "generator's accuracy, held out"),
    ("eval/pairs_swapped", "pairs with two neighbouring words swapped, held out"),
    ("eval/pairs_replaced", "pairs with one word replaced, held out"),
)
"""Metrics of training that a card has, and what they are called there."""

_TASK_TYPES = {"masked_tokens": "fill-mask", "replaced_tokens": "token-classification"}

_PAPER = "[Clark et al. 2020](https://openreview.net/forum?id=r1xMH1BtvB)"

_ABOUT = {
    "discriminator": (
        f"The discriminator of an ELECTRA pre-training run ({_PAPER}): an encoder that tells, of every token of a "
        "text, whether a generator has replaced it. It is the network to fine-tune."
    ),
    "generator": (
        f"The generator of an ELECTRA pre-training run ({_PAPER}): a masked language model, which made the "
        "replacements that the run's discriminator learned to find."
    ),
}

_ALONE = {
    "generator_warmup": (
        "A masked language model: the generator of an ELECTRA pre-training run "
        f"({_PAPER}), from the phase in which it is trained alone. No discriminator was trained, so this is the "
        "network to fine-tune."
    ),
    "mlm": (
        "A masked language model (Devlin et al. 2019): an encoder that predicts the masked tokens of a text. It is the "
        "network to fine-tune."
    ),
}
"""What a network is that was trained by masked tokens alone, by the phase of its checkpoint."""

_USE = {
    "discriminator": """```python
import torch
from transformers import AutoTokenizer, {kind}

folder = "."  # the folder of this file, or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = {kind}.from_pretrained(folder).eval()
batch = tokenizer("The ship left the banana at noon.", return_tensors="pt", truncation=True, max_length={length})
with torch.no_grad():
    replaced = model(**batch).logits[0].flatten().sigmoid()
for token, probability in zip(batch.tokens(), replaced.tolist()):
    print(f"{{token:15}} {{probability:.3f}}")
```

To fine-tune it, open it with the class of the task, such as
`{for_task}`.""",
    "generator": """```python
from transformers import pipeline

fill = pipeline("fill-mask", model=".")  # the folder of this file, or the model's name on the hub
for guess in fill("The ship left the [MASK] at noon."):
    print(f"{{guess['token_str']:15}} {{guess['score']:.3f}}")
```

The class that it is exported as is `{kind}`.""",
}


@dataclass(frozen=True)
class NetworkCard:
    """A network of a run: its parameters are ``parameters``, it opens as transformers' class ``kind``."""

    facts: RunFacts
    network: Network
    kind: str
    parameters: int
    licence: str | None = None

    def _for_task(self) -> str:
        """How a classifier of texts is opened."""
        kind, settings = method_of("architecture", self.facts.recipe.architecture.kind).for_tasks
        return f"{kind}.from_pretrained(folder{settings})"

    @property
    def alone(self) -> bool:
        """It predicts masked tokens, and no discriminator was trained: in the generator's warm-up, or at all."""
        return self.facts.state.phase != "joint"

    @property
    def encoder(self) -> bool:
        """It is the network that is fine-tuned."""
        return self.network == "discriminator" or self.alone

    def card(self) -> ModelCard:
        """The card; the same facts give the same text."""
        facts = self.facts
        name = f"{facts.name} {self.network}"
        about = f"{_ALONE.get(self.facts.state.phase, _ABOUT[self.network])} It has {self.parameters:,} parameters"
        about += f", and is {self._which()}."
        length = facts.recipe.data.sequence_length
        sections = {
            "Use": _USE[self.network].format(kind=self.kind, length=length, for_task=self._for_task()),
            "Text": self._text(),
            "Training": self._training(),
            "Figures": self._figures(),
            "Scores": self._scores(),
            "Limits": sentences(list(self._limits())),
        }
        method = "replaced-token-detection" if self.network == "discriminator" else "masked-lm"
        return model_card(
            name,
            about,
            sections,
            results=self._results(),
            licence=self.licence,
            language=facts.language,
            pipeline="feature-extraction" if self.network == "discriminator" else "fill-mask",
            tags=["electra", "pretraining", method],
        )

    def _which(self) -> str:
        facts = self.facts
        if facts.average:
            steps = ", ".join(f"{step:,}" for step in facts.steps)
            return f"the average of the weights of {len(facts.steps)} checkpoints, those of steps {steps}"
        return f"the checkpoint of step {facts.steps[0]:,} of {facts.recipe.total_steps:,}"

    def _text(self) -> str:
        facts, parts = self.facts, []
        if facts.text is not None:
            sources = facts.text["sources"]
            rows = [(label, *(f"{count:,}" for count in counts["train"])) for label, counts in sources.items()]
            if len(rows) > 1:
                rows.append(("all", *(f"{count:,}" for count in _total(sources, "train"))))
            parts.append(table(("source", "documents", "tokens"), rows))
            documents, tokens = _total(sources, "heldout")
            if documents:
                parts.append(f"Held out of these sources: {documents:,} documents, {tokens:,} tokens.")
            parts.append(f"Vocabulary: {facts.text['vocabulary']:,} tokens.")
        if facts.recipe.data.mixture:
            parts.append(f"Weights of the sources in training: {facts.recipe.data.mixture}.")
        tokenizer = f"tokenizer `{facts.state.tokenizer}`"
        if facts.fingerprint is not None:
            parts.append(f"Fingerprints: manifest of the data `{facts.fingerprint}`, {tokenizer}.")
        else:
            parts.append(f"Fingerprint: {tokenizer}.")
        return "\n\n".join(parts)

    def _training(self) -> str:
        facts = self.facts
        recipe, state = facts.recipe, facts.state
        steps = f"{state.step:,}"
        if recipe.generator_warmup.steps:
            warmup = min(state.step, recipe.generator_warmup.steps)
            steps += f": {warmup:,} of the generator alone, {state.step - warmup:,} of both networks"
        batch = f"{recipe.batch.global_batch:,} rows of {recipe.data.sequence_length:,} positions"
        rows = [("steps", steps), ("batch", batch), ("positions seen", f"{facts.positions:,}")]
        if "data/packing_efficiency" in facts.rows:
            share = facts.rows["data/packing_efficiency"][1]
            rows.append(
                ("tokens seen", f"about {round(facts.positions * share):,} ({share:.1%} of the last batch's positions)")
            )
        if not self.alone:
            corruption = recipe.corruption
            rows.append(("replacements", getattr(corruption, "label", corruption.kind)))
        rows.append(("time, evaluation and saving included", _time(state.seconds)))
        rows += [(f"hardware from step {each.step:,}", f"{each.device}; {each.where}") for each in facts.hardware]
        if facts.versions:
            rows.append(("versions", ", ".join(f"{name} {version}" for name, version in facts.versions.items())))
        text = table(("", "value"), rows).replace("---:", "---")
        return (
            f"{text}\n\nThe recipe, without the places of the machine that it ran on:\n\n"
            f"```yaml\n{facts.recipe_text().rstrip()}\n```"
        )

    def _figures(self) -> str:
        facts = self.facts
        rows = [
            (label, f"{facts.rows[name][1]:.4g}", f"{facts.rows[name][0]:,}")
            for name, label in _SHOWN
            if name in facts.rows
        ]
        if not rows:
            return ""
        text = (
            "Those that are not held out are of one batch. The AUC of detection depends on how good the generator is, "
            "so it compares no two runs.\n\n" + table(("figure", "value", "at step"), rows)
        )
        if facts.average:
            text = f"Of the newest of the averaged checkpoints; the average itself was not evaluated. {text}"
        return text

    def _scores(self) -> str:
        scores, parts = self.facts.scores, []
        if self.encoder and scores.tasks:
            rows = [
                (
                    each.tuned.task,
                    f"{each.tuned.metric}, {each.tuned.split}",
                    with_error(each.tuned.main, each.tuned.spread),
                    number(each.random.get(each.tuned.metric)),
                    len(each.tuned.seeds),
                )
                for each in scores.tasks
            ]
            parts.append("Fine-tuned, mean and deviation over seeds:")
            parts.append(table(("task", "metric", "this model", "random weights", "seeds"), rows))
        probes = [probe for probe in scores.probes if self._mine(probe.by)]
        if probes:
            lines = [
                (
                    probe.variant,
                    each.name,
                    with_error(each.value, each.error),
                    number(each.random),
                    number(each.chance),
                    each.count or "",
                )
                for probe in probes
                for each in probe.figures
            ]
            parts.append("Without fine-tuning, with standard errors:")
            parts.append(table(("probe", "figure", "this model", "random weights", "chance", "of"), lines))
        return "\n\n".join(parts)

    def _mine(self, by: str) -> bool:
        return by == self.network or (self.encoder and by != "generator")

    def _results(self) -> list[EvalResult]:
        facts, found = self.facts, []
        data = f"held-out text of manifest {facts.fingerprint[:12]}" if facts.fingerprint else "held-out text"
        for name in () if facts.average else _HELD_OUT[self.network]:
            if name in facts.rows:
                kind = "fill-mask" if self.network == "generator" else "token-classification"
                step, value = facts.rows[name]
                short = name.removeprefix("eval/")
                label = f"{short}, training's own evaluation at step {step}"
                found.append(EvalResult(kind, "held-out", data, short, metric_value(value), metric_name=label))
        for probe in facts.scores.probes:
            if not self._mine(probe.by):
                continue
            for each in probe.figures:
                kind = _TASK_TYPES.get(probe.probe, "text-classification")
                found.append(
                    EvalResult(
                        kind,
                        probe.variant,
                        probe.variant,
                        metric_id(each.name),
                        metric_value(each.value),
                        metric_name=each.name,
                    )
                )
        for task in (each.tuned for each in facts.scores.tasks if self.encoder):
            for name, value in task.mean.items():
                if math.isnan(value):
                    continue
                found.append(
                    EvalResult(
                        task.kind,
                        task.task,
                        task.task,
                        metric_id(name),
                        metric_value(value),
                        dataset_split=task.split,
                        metric_name=f"{name}, mean over {len(task.seeds)} seeds",
                    )
                )
        return found

    def _limits(self) -> Iterator[str]:
        facts = self.facts
        recipe, state = facts.recipe, facts.state
        length, most = recipe.data.sequence_length, recipe.model.max_positions
        if length < most:
            yield (
                f"It was trained on rows of {length:,} positions. The tokenizer cuts at {most:,}, but positions from "
                f"{length:,} on were never trained: pass `truncation=True, max_length={length}`."
            )
        if facts.language is not None:
            yield (
                f"The text is documents that a filter took for `{facts.language}`; others are in it by mistake only."
            )
        elif facts.text is not None:
            yield "The build did not filter by language, so which languages the text is in is not recorded."
        if not state.finished and not facts.average:
            yield f"The run was not at its end: step {state.step:,} of {recipe.total_steps:,}."
        if state.skipped:
            yield f"{state.skipped:,} steps were skipped, since a loss or gradient was not finite."
        if not facts.scores.tasks and self.encoder:
            yield "It was not fine-tuned on any task when it was exported, so how useful it is is not known."
        yield from facts.scores.notes
        for each in facts.lacking:
            yield f"Not known: {each}."
        yield "Nobody has examined the text or the model for personal data, social bias or harmful content."


def _total(sources: Mapping[str, Mapping[str, Sequence[int]]], split: str) -> tuple[int, int]:
    """Documents and tokens of a split."""
    counts = [each[split] for each in sources.values()]
    return sum(documents for documents, _ in counts), sum(tokens for _, tokens in counts)


def _time(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"
