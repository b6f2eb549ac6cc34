"""The tasks that are known by name, with the metrics, epochs and lengths of ELECTRA's own fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping

from data_pipeline.errors import UserError
from data_pipeline.settings import nearest
from electra_scale.finetune.tasks.task import METRICS, ROLES, Hub, Kind, Task

_SENTENCE = {"text": "sentence", "label": "label"}
_PAIR = {"text": "sentence1", "text2": "sentence2", "label": "label"}
_TAGGED = {"tokens": "tokens", "tags": "tags"}
_QUESTION = {"id": "id", "question": "question", "context": "context", "answers": "answers"}

_GLUE = "nyu-mll/glue"
_ENTAILMENT = ("entailment", "not_entailment")
_SENTIMENT = ("negative", "positive")

_CHUNK_KINDS = ("ADJP", "ADVP", "CONJP", "INTJ", "LST", "NP", "PP", "PRT", "SBAR", "UCP", "VP")
_CHUNKS = ("O", *(f"{part}-{kind}" for kind in _CHUNK_KINDS for part in "BI"))

_TASKS = (
    Task(
        "cola",
        "classification",
        _SENTENCE,
        ("matthews", "accuracy"),
        "acceptability of a sentence (GLUE)",
        labels=("unacceptable", "acceptable"),
        hub=Hub(_GLUE, "cola"),
    ),
    Task(
        "sst2",
        "classification",
        _SENTENCE,
        ("accuracy",),
        "sentiment of film reviews (GLUE)",
        labels=_SENTIMENT,
        hub=Hub(_GLUE, "sst2"),
    ),
    Task(
        "mrpc",
        "classification",
        _PAIR,
        ("accuracy", "f1"),
        "paraphrase of news sentences (GLUE)",
        labels=("not_paraphrase", "paraphrase"),
        both_orders=True,
        hub=Hub(_GLUE, "mrpc"),
    ),
    Task(
        "stsb",
        "regression",
        _PAIR,
        ("spearman", "pearson"),
        "similarity of two sentences, 0 to 5 (GLUE)",
        bounds=(0.0, 5.0),
        epochs=10.0,
        both_orders=True,
        hub=Hub(_GLUE, "stsb"),
    ),
    Task(
        "qqp",
        "classification",
        _PAIR,
        ("accuracy", "f1"),
        "same question or not (GLUE)",
        labels=("not_duplicate", "duplicate"),
        hub=Hub(_GLUE, "qqp", {"text": "question1", "text2": "question2"}),
    ),
    Task(
        "mnli",
        "classification",
        _PAIR,
        ("accuracy",),
        "entailment in several genres (GLUE)",
        labels=("entailment", "neutral", "contradiction"),
        further={"_mismatched": "validation_mismatched"},
        hub=Hub(_GLUE, "mnli", {"text": "premise", "text2": "hypothesis"}, {"validation": "validation_matched"}),
    ),
    Task(
        "qnli",
        "classification",
        _PAIR,
        ("accuracy",),
        "does a sentence answer a question (GLUE)",
        labels=_ENTAILMENT,
        hub=Hub(_GLUE, "qnli", {"text": "question", "text2": "sentence"}),
    ),
    Task(
        "rte",
        "classification",
        _PAIR,
        ("accuracy",),
        "entailment, small (GLUE)",
        labels=_ENTAILMENT,
        epochs=10.0,
        hub=Hub(_GLUE, "rte"),
    ),
    Task(
        "wnli",
        "classification",
        _PAIR,
        ("accuracy",),
        "what a pronoun stands for (GLUE)",
        labels=("not_entailed", "entailed"),
        hub=Hub(_GLUE, "wnli"),
    ),
    Task(
        "trec",
        "classification",
        _SENTENCE,
        ("accuracy",),
        "kind of thing that a question asks for",
        labels=("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM"),
        scored_on="test",
    ),
    Task(
        "cr",
        "classification",
        _SENTENCE,
        ("accuracy",),
        "sentiment of customer reviews",
        labels=_SENTIMENT,
    ),
    Task(
        "conll2000",
        "tagging",
        _TAGGED,
        METRICS["tagging"],
        "chunks of news sentences",
        labels=_CHUNKS,
        scored_on="test",
    ),
    Task(
        "ner",
        "tagging",
        _TAGGED,
        METRICS["tagging"],
        "named entities, with the tags that train has",
        folders=("conll2003",),
    ),
    Task(
        "squad",
        "question-answering",
        _QUESTION,
        ("f1", "exact_match"),
        "the answer to a question in a paragraph (SQuAD 1.1)",
        epochs=2.0,
        length=512,
        unanswerable=False,
        hub=Hub("rajpurkar/squad"),
    ),
    Task(
        "squad_v2",
        "question-answering",
        _QUESTION,
        ("f1", "exact_match"),
        "the answer, or that there is none (SQuAD 2.0)",
        epochs=2.0,
        length=512,
        folders=("squad",),
        hub=Hub("rajpurkar/squad_v2"),
    ),
)

TASKS: Mapping[str, Task] = {task.name: task for task in _TASKS}

KINDS: tuple[Kind, ...] = tuple(ROLES)
"""What ``--task`` takes for a user's own rows."""


def known_task(name: str) -> Task:
    """The task of a name; raises UserError with the names that there are."""
    if name in TASKS:
        return TASKS[name]
    close = nearest(name, (*TASKS, *KINDS))
    hint = f"{close} " if close.startswith("did you mean") else ""
    raise UserError(
        f"there is no task {name!r}; {hint}there are {', '.join(TASKS)}, and for your own files {', '.join(KINDS)}"
    )
