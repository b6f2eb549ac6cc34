"""An export is looked into with what it has: p without a sampling head, scores without a generator, and it says so."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, ElectraForPreTraining, ModernBertForTokenClassification

from data_pipeline.errors import UserError
from data_pipeline.tokenize.tokenizer import save_tokenizer, wordpiece_tokenizer
from electra_scale.inside.examples import examples
from electra_scale.inside.inside import Inside
from electra_scale.inside.opening import open_named
from electra_scale.inside.run import OpenedRun
from electra_scale.model.hf import export
from electra_scale.recipe.model import BertSettings, ModernSettings
from tests.unit.inside.conftest import LONGEST, SAMPLERS, SIZES, VOCABULARY, WORDS, open_inside

TEXT = "the cat sat on the mat."


ARCHITECTURES: dict[str, Any] = {"bert": BertSettings(), "modern": ModernSettings(window=4)}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of each architecture, which its folder's name tells."""
    folder = tmp_path_factory.mktemp(request.param)
    save_tokenizer(folder / "store", wordpiece_tokenizer(VOCABULARY, True))
    opened = run_of(folder / "out").opened
    assert isinstance(opened, OpenedRun)
    export(opened.module.electra, folder / "store/tokenizer", folder / "out")
    return folder / "out"


def run_of(exported: Path) -> Inside:
    """The run that an export is of."""
    name = exported.parent.name.rstrip("0123456789")
    return open_inside(SAMPLERS["electra"], architecture=ARCHITECTURES[name])


def test_an_export_shows_the_p_of_its_run_and_draws_from_it(exported: Path) -> None:
    found = open_named(str(exported)).look(TEXT, [2, 5], key=4)
    expected = run_of(exported).look(TEXT, [2, 5], key=4)
    assert [token.drawn for token in found.tokens] == [token.drawn for token in expected.tokens]
    assert [token.score for token in found.tokens] == pytest.approx(
        [token.score for token in expected.tokens], abs=1e-5
    )
    for one, other in zip(found.positions, expected.positions, strict=True):
        assert [candidate.token for candidate in one.candidates] == [candidate.token for candidate in other.candidates]
        assert [candidate.p for candidate in one.candidates] == pytest.approx(
            [candidate.p for candidate in other.candidates], rel=1e-4
        )
        assert all(candidate.q == candidate.p and candidate.hardness is None for candidate in one.candidates)
        assert one.weight == 1.0


def test_p_and_scores_are_those_that_transformers_gives(exported: Path) -> None:
    looked = open_named(str(exported)).look(TEXT, [2], key=1, best=len(WORDS))
    ids = torch.tensor([[token.id for token in looked.tokens]])
    masked = ids.index_fill(1, torch.tensor([2]), VOCABULARY["[MASK]"])
    with torch.no_grad():
        p = AutoModelForMaskedLM.from_pretrained(exported / "generator")(masked).logits[0, 2].softmax(-1)
        shown = ids.index_fill(1, torch.tensor([2]), looked.positions[0].drawn.id)
        kind = ModernBertForTokenClassification if "modern" in str(exported) else ElectraForPreTraining
        scores = kind.from_pretrained(exported / "discriminator")(shown).logits[0].flatten().sigmoid()
    by_id = {one.id: one.p for one in looked.positions[0].candidates}
    assert [by_id[v] for v in range(len(WORDS))] == pytest.approx(p.tolist(), rel=1e-4)
    assert [token.score for token in looked.tokens] == pytest.approx(scores.tolist(), abs=1e-6)


def test_what_an_export_lacks_is_said_and_not_offered(exported: Path, tmp_path: Path) -> None:
    both = open_named(str(exported)).about
    assert (both.generates, both.detects, both.longest) == (True, True, SIZES["max_positions"])
    assert "no sampling head" in both.notes[0]
    shutil.copytree(exported / "discriminator", tmp_path / "alone/discriminator")
    for name in (tmp_path / "alone", exported / "discriminator"):
        inside = open_named(str(name))
        assert (inside.about.generates, inside.about.detects) == (False, True)
        assert "no generator" in inside.about.notes[0]
        assert all(token.score is not None for token in inside.look(TEXT).tokens)
        with pytest.raises(UserError, match="has no generator"):
            inside.look(TEXT, [2])
    inside = open_named(str(exported / "generator"))
    assert (inside.about.generates, inside.about.detects) == (True, False)
    assert "no discriminator" in inside.about.notes[0]
    looked = inside.look(TEXT, [2])
    assert all(token.score is None for token in looked.tokens)
    assert looked.positions[0].drawn.token == looked.tokens[2].drawn


def test_an_export_takes_texts_up_to_its_positions(exported: Path) -> None:
    inside = open_named(str(exported))
    assert inside.about.longest > LONGEST
    assert len(inside.look("cat " * 14, [1]).tokens) == 16
    with pytest.raises(UserError, match="at most 16"):
        inside.look("cat " * 15)


def test_networks_with_different_tokenizers_are_refused(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "out")
    words = {word: index for index, word in enumerate([*WORDS[:-2], WORDS[-1], WORDS[-2]])}
    save_tokenizer(tmp_path, wordpiece_tokenizer(words, True))
    shutil.copy(tmp_path / "tokenizer/tokenizer.json", tmp_path / "out/generator")
    with pytest.raises(UserError, match="different tokenizers"):
        open_named(str(tmp_path / "out"))


def test_what_is_no_model_of_ours_is_one_line(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no model"):
        open_named(str(tmp_path / "empty"))
    with pytest.raises(UserError, match="is no run folder"):
        open_named(str(exported), step=3)


def test_rows_of_a_store_need_a_run(exported: Path) -> None:
    with pytest.raises(UserError, match="is no run"):
        examples(open_named(str(exported)), None, 1)  # type: ignore[arg-type]
