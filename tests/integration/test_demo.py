"""The demo's whole chain, at a size of seconds: own text, store, two ranks, export, summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data_pipeline.build.build import build_store
from data_pipeline.config import TokenizerConfig
from data_pipeline.errors import UserError
from data_pipeline.read.inputs import find_inputs
from electra_scale.cli import main
from electra_scale.commands.demo import own_sources, score_pairs, small_store
from tests.support.fixtures.runs import RECIPE

pytestmark = pytest.mark.slow


def test_the_demo_takes_own_text_to_an_exported_encoder(
    corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    recipe = json.loads(json.dumps(RECIPE))
    recipe["logging"]["evaluate_every"] = 3
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    out = tmp_path / "demo"
    arguments = ["demo", "--out", str(out), "--corpus", str(corpus), "--recipe", str(tmp_path / "recipe.yaml")]
    assert main(arguments) == 0
    for name in ("store/manifest.json", "checkpoints/latest", "tensorboard", "metrics.jsonl", "summary.json"):
        assert (out / name).exists(), name
    for network in ("discriminator", "generator"):
        assert (out / "export" / network / "model.safetensors").is_file()
    summary = json.loads((out / "summary.json").read_text())
    for key in ("documents", "tokens", "steps", "ranks", "tokens_per_second", "seconds", "auc"):
        assert summary[key] > 0, key
    assert summary["disc_loss_variance_masked"] >= 0
    assert summary["ranks"] == 2
    assert summary["steps"] == 12
    for kind in ("swapped", "replaced"):
        for ending in ("", "_random"):
            assert 0 <= summary[f"pairs_{kind}{ending}"] <= 1
    shown = capfd.readouterr().out
    rows = dict(line.split("  ", 1) for line in shown.splitlines() if "by random weights" in line)
    for name, kind in (("two words swapped", "swapped"), ("a word replaced", "replaced")):
        assert f"{summary[f'pairs_{kind}']:.3f} of the true sentences" in rows[name]
        assert f"by random weights {summary[f'pairs_{kind}_random']:.3f}" in rows[name]
    # Where the report of the run finds them.
    assert (out / "evaluation/pairs-18.json").is_file()
    assert f"{out / 'report.html'}, a page that opens in a browser" in shown
    assert "pairs_swapped" in (out / "report.html").read_text()
    for text in ("tensorboard --logdir", "five best", "probability that a token was replaced", "AUC, held out"):
        assert text in shown

    # A second call has nothing left to train and says the same.
    assert main(arguments) == 0
    again = json.loads((out / "summary.json").read_text())
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}


def test_text_without_sentences_gives_no_pairs_and_a_line_that_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "words.txt").write_text("\n\n".join(f"words and words without end {number}" for number in range(200)))
    build = small_store(tmp_path / "store", own_sources(tmp_path / "words.txt"))
    build_store(replace(build, held_out=0.5, tokenizer=TokenizerConfig(vocab_size=60), workers=1))
    assert set(score_pairs(tmp_path).values()) == {None}
    assert "no pairs: the held-out text of store" in capsys.readouterr().err


def test_own_text_is_recognised_by_its_names(tmp_path: Path) -> None:
    for name in ("a.txt", "b.jsonl.gz", "c.parquet", "deep/d.txt.zst", "e.pdf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    found = {source.kind: [Path(path).name for path in source.paths] for source in own_sources(tmp_path)}
    assert found == {"text": ["a.txt", "d.txt.zst"], "jsonl": ["b.jsonl.gz"], "parquet": ["c.parquet"]}
    with pytest.raises(UserError, match=r"e\.pdf"):
        own_sources(tmp_path / "e.pdf")
    with pytest.raises(UserError, match="does not exist"):
        own_sources(tmp_path / "nothing")


def test_the_demo_follows_links_and_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("in/a.txt", "in/b.csv", "in/c.pdf", "elsewhere/d.jsonl.gz", "in/.git/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "link" / "back").symlink_to(tmp_path / "in")
    found = [path for source in own_sources(tmp_path / "in") for path in source.paths]
    assert found == [f"{tmp_path}/in/a.txt", f"{tmp_path}/in/link/d.jsonl.gz"]
    shown = capsys.readouterr().err
    assert f"2 files left out (its name has none of .txt, .jsonl, .parquet): such as {tmp_path}/in/b.csv" in shown
    assert "1 hidden name left out" in shown
    (tmp_path / "in" / "gone.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match=r"a symbolic link to .*gone, which is not there"):
        [path for source in own_sources(tmp_path / "in") for path in find_inputs([source])]
