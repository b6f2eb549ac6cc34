"""Pairs by a model: the sentences of a store, scored by either network, and refusals in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.data.pairs import Pair
from electra_scale.evaluate.networks import open_discriminator
from electra_scale.evaluate.pairs import evaluate_pairs, network_by, pairs_of
from electra_scale.evaluate.sentences import discriminator_scores, encode
from electra_scale.export.named_model import NamedModel

PAIRS = [
    Pair("swapped", "the man sees a boat.", "the man a sees boat."),
    Pair("swapped", "they walk to it.", "they to walk it."),
    Pair("replaced", "the man sees a boat.", "the man sees a the."),
]


def test_shares_are_those_of_the_scores(pair_model: NamedModel) -> None:
    found = evaluate_pairs(pair_model, "discriminator", PAIRS, "store", 0)
    network = open_discriminator("m", pair_model.folder)
    points: dict[str, list[float]] = {"pairs_swapped": [], "pairs_replaced": []}
    for pair in PAIRS:
        one, other = discriminator_scores(network, encode(network, [pair.original, pair.changed]))  # type: ignore[arg-type]
        points[f"pairs_{pair.kind}"].append(float(one > other))
    assert {score.name: (score.value, score.count, score.chance) for score in found.scores} == {
        name: (sum(own) / len(own), len(own), 0.5) for name, own in points.items()
    }


def test_sentences_that_are_too_long_are_left_out_and_counted(
    electra_model: NamedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    long = Pair("swapped", "the man " * 9, "man the " * 9)
    found = evaluate_pairs(electra_model, "generator", [*PAIRS, long], "store", 0)
    assert [score.count for score in found.scores] == [2, 1]
    assert "2 sentences of 7 left out" in capsys.readouterr().err
    with pytest.raises(UserError, match="every pair is longer"):
        evaluate_pairs(electra_model, "discriminator", [long], "store", 0)


@pytest.mark.parametrize(
    ("steps", "advice"),
    [(9, "wait for a checkpoint of after step 7"), (0, "train the run on, with schedule.steps above 0")],
)
def test_a_run_in_its_warm_up_has_no_discriminator_to_score(
    electra_model: NamedModel, tmp_path: Path, steps: int, advice: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "recipe.yaml").write_text(
        f"run_dir: {tmp_path}\ndata: {{store: s}}\ngenerator_warmup: {{steps: 7}}\nschedule: {{steps: {steps}}}\n"
    )
    warm = replace(electra_model, run=tmp_path, phase="generator_warmup", step=5)
    with pytest.raises(
        UserError, match="at step 5, in the generator's warm-up, where no discriminator is trained"
    ) as raised:
        network_by(warm, "discriminator")
    assert advice in str(raised.value)
    assert network_by(warm, "generator")


def test_a_bert_scores_by_its_masked_predictions_only(folders: dict[str, Path]) -> None:
    bert = NamedModel("bert", folders["bert"])
    assert len(evaluate_pairs(bert, "generator", PAIRS, "store", 0).scores) == 2
    with pytest.raises(UserError, match="has no head that tells original tokens from replaced ones"):
        evaluate_pairs(bert, "discriminator", PAIRS, "store", 0)


def test_a_store_without_held_out_text_is_refused() -> None:
    store: Any = SimpleNamespace(url="s", manifest=SimpleNamespace(split=lambda _: []))
    with pytest.raises(UserError, match="store s has no held-out text"):
        pairs_of(store, 5, 0)
