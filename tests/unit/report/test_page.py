"""The page of any run, whatever state it is in: one file, no foreign markup, no requests, the numbers of the rows."""

from __future__ import annotations

import json
import math
import re
import sys
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.errors import UserError
from electra_scale.report.charts import apart, short
from electra_scale.report.command import write_report
from electra_scale.report.draw_section import example_section
from electra_scale.report.draws import Choice, Example, Examples, Place, Shown
from electra_scale.report.material import read_runs
from electra_scale.report.page import page_of
from electra_scale.report.panels import SECTIONS, WORDS
from tests.unit.report.conftest import LOG, MakeRun, full_rows, write_scores

HOSTILE = '</title><script>alert(1)</script><b onclick="x">&amp;\'$\\frac{1}$'


class Parsed(HTMLParser):
    """Tags with their attributes, all text, and what is open at the end."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page(*runs: Path) -> Parsed:
    """The page without examples, which need a checkpoint, well formed and free of what is not its own."""
    found = Parsed(page_of(read_runs(list(runs)), [""] * len(runs), datetime(2026, 3, 1)))
    assert found.open == []
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert not {"script", "link", "img", "iframe", "object", "b"} & {name for name, _ in found.tags}
    for _, attributes in found.tags:
        assert not {"src", "onclick", "onload"} & attributes.keys()
        for name in ("href", "xlink:href", "aria-labelledby"):
            for target in (attributes.get(name) or "").split():
                assert target.removeprefix("#") in ids
    assert re.findall(r"url\((?!#)", found.source) == []
    return found


def test_every_plot_that_the_rows_allow_is_there_and_described(make_run: MakeRun) -> None:
    found = page(make_run(rows=full_rows(), log=LOG))
    described = [attributes for name, attributes in found.tags if name == "svg"]
    assert all(attributes["role"] == "img" for attributes in described)
    assert found.count("desc") == found.count("figure") == len(described)
    names = {attributes["id"] for name, attributes in found.tags if name == "figure"}
    without = {"optimizer-skipped", "speed-mfu"}
    panels = {f"{section.name}-{panel.name}" for section in SECTIONS for panel in section.panels}
    assert names == (panels - without) | {"speed-time"}
    assert "nats per masked token over training steps. held out: 5.2 at first, 5.2 at last" in found.text
    # A word in a caption leads to its meaning.
    linked = {attributes["href"] for name, attributes in found.tags if name == "a" and "href" in attributes}
    assert {f"#word-{word.replace(' ', '-')}" for word in WORDS} <= linked
    assert not re.search(r"\[\w", found.text.split("Evaluation and fine-tuning")[-2])


def test_the_numbers_of_the_last_rows_are_in_tables(make_run: MakeRun) -> None:
    found = page(make_run(rows=[few(100, disc__auc=0.6, eval__auc=0.62), few(101, disc__auc=0.654321)]))
    assert re.search(r"<th scope=\"row\">AUC, training .*?</th><td>0.6543 <small>at 101</small></td>", found.source)
    assert re.search(r"<th scope=\"row\">AUC, held out .*?</th><td>0.62 <small>at 100</small></td>", found.source)
    assert re.search(r"<code>disc/auc</code></th><td>0.6543", found.source)


def few(step: int, phase: str = "joint", **values: Any) -> dict[str, Any]:
    """A row of few values, which is quick to draw."""
    return {"step": step, "phase": phase} | {name.replace("__", "/"): value for name, value in values.items()}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "No step has been logged yet"),
        ([few(1, disc__auc=0.5)], "The run has no variance probe yet"),
        (
            [few(1, "generator_warmup", optim__lr=1.0)],
            "no figures of the discriminator: it is still in the generator's",
        ),
        ([few(3)], "trains a discriminator"),
        ([few(3, loss__discriminator=None, disc__auc=None)], "trains a discriminator"),
        ([few(3, my__tag=2.0)], "my/tag"),
        ([few(step, disc__auc=value) for step, value in enumerate([None, 0.6, 1e99, 0.5])], "1 value is not finite"),
        ([few(step, loss__discriminator=0.0) for step in (1, 2, 3)], "loss per token"),
        ([few(2**60 + step, optim__lr=-1.0) for step in (1, 2, 3)], "Learning rate"),
    ],
)
def test_rows_of_any_kind_give_a_page(make_run: MakeRun, rows: list[dict[str, Any]], words: str) -> None:
    assert words in page(make_run(rows=rows, log=LOG, status={"state": "running"})).text


def test_a_run_without_generator_says_what_takes_its_place(make_run: MakeRun) -> None:
    text = page(make_run(rows=[few(1)], **{"corruption.kind": "random"})).text
    assert "trains a discriminator of 2 layers of width 32; replacements are drawn by random." in text


def test_a_hundred_thousand_rows_are_thinned_and_the_page_says_so(make_run: MakeRun) -> None:
    lines = (f'{{"step": {n}, "phase": "joint", "disc/auc": {0.5 + math.sin(n) / 9}}}\n' for n in range(1, 100_001))
    found = page(make_run(rows="".join(lines)))
    assert "100,000 values, means of up to 625." in found.text
    assert len(found.source) < 150_000


def test_several_runs_stand_side_by_side_under_letters(make_run: MakeRun) -> None:
    rows = [few(step, disc__auc=0.5, eval__auc=0.6, disc_loss_variance__draw_ratio=0.5) for step in (1, 2)]
    one, two = make_run("one", rows=rows), make_run("two", rows=rows[:1], **{"corruption.sampler": "electra"})
    found = page(one, two, make_run("none"))
    assert "3 runs: one, two, none" in found.text
    differing = found.source.split('id="differences"')[1].split("</section>")[0]
    assert re.findall(r"<code>(.*?)</code>", differing) == ["corruption.sampler"]
    # In each of the two plots a run has its letter once, whatever lines it has.
    assert [found.source.count(f">{letter}</text>") for letter in "ABC"] == [2, 2, 0]
    assert "Run C" not in found.text.split("Evaluation and fine-tuning")[0]


def test_scores_are_plotted_beside_chance_and_random_weights(make_run: MakeRun) -> None:
    run = make_run(rows=[few(100)])
    assert "electra-scale evaluate RUN" in page(run).text
    write_scores(run)
    write_scores(run, random=True)
    found = page(run)
    names = {attributes["id"] for name, attributes in found.tags if name == "figure"}
    assert {"scores-evaluation", "scores-finetune"} <= names
    assert "0.906 ± 0.013 of 541 at 100" in found.text
    assert "0.21 ± 0.01 3 seeds, validation, step 100" in found.text
    # A perplexity is on another scale than shares: it is in the table alone.
    assert "31.5" in found.text
    assert "perplexity" not in found.source.split('id="scores-evaluation-text"')[1].split("</desc>")[0]


def test_text_from_outside_stays_text(make_run: MakeRun, tmp_path: Path) -> None:
    rows = [few(1, HOSTILE, disc__auc=0.5) | {HOSTILE: 1.0}, few(2, disc__auc=0.6), few(3, HOSTILE, disc__auc=0.5)]
    run = make_run(
        "<script>alert(2)",
        rows=rows,
        log=LOG.replace("<b>now</b>", HOSTILE),
        status={"state": "failed", "reason": HOSTILE},
        **{"corruption.sampler": HOSTILE},
    )
    (run / "data.json").write_text(json.dumps({"store": HOSTILE, "manifest": HOSTILE}))
    (run / "versions.json").write_text(json.dumps({HOSTILE: HOSTILE}))
    (run / "changes.jsonl").write_text(json.dumps({"step": 1, "setting": HOSTILE, "from": HOSTILE, "to": "\x00\u202e"}))
    write_scores(run)
    for file in ("evaluation/pairs-100.json", "finetune/cola/result.json"):
        content = (run / file).read_text()
        for name in ("pairs_swapped", "cola", "validation", "discriminator", "matthews"):
            content = content.replace(f'"{name}"', json.dumps(HOSTILE))
        (run / file).write_text(content)
    found = page(run)
    assert found.text.count(HOSTILE) > 10
    assert "\\u{202e}" in found.text


def test_tokens_are_coloured_by_the_discriminator_and_stay_text() -> None:
    tokens = (
        Shown("[CLS]", None, False, 0.1, True),
        Shown("<script>", "##able", True, 0.9, False),
        Shown("##ing", None, False, 0.25, False),
        Shown("the", "the", False, None, False),
    )
    place = Place(Choice("<script>", 0.5, 0.1, 0.2), Choice("##able", 1e-5, 2e-5, 2.0), (Choice("a", None, 0.3, None),))
    found = example_section(Examples(7, "m", "heldout", HOSTILE, (Example(tokens, (place,), 12),), (HOSTILE,)))
    drawn = Place(Choice("a", None, None, None), Choice("b", None, None, None), ())
    assert "p, q and hardness" in found
    bare = example_section(Examples(7, "m", "heldout", "", (Example(tokens, (drawn,), 0),), ("No q.",)))
    assert "p, q and hardness" not in bare
    assert "No q." in bare
    assert not {"script", "b"} & {name for name, _ in Parsed(found).tags}
    assert "<s>&lt;script&gt;</s> ##able <small>0.90</small>" in found
    assert "rgba(var(--bad), 0.68)" in found
    assert "and 12 more tokens" in found
    assert "<td>1e-5</td><td>2e-5</td><td>2.00</td>" in found


def test_the_page_is_written_whole_or_not_at_all(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(rows=[few(1, disc__auc=0.5)])
    assert write_report([run], examples=False) == run / "report.html"
    monkeypatch.chdir(tmp_path)
    assert write_report([run, make_run("other")], examples=False) == Path("report.html")
    assert write_report([run], tmp_path / "new" / "page.html", examples=False).is_file()
    before = (run / "report.html").read_bytes()
    for out in (tmp_path, run / "log.txt" / "report.html"):
        with pytest.raises(UserError, match="cannot write the report"):
            write_report([run], out, examples=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"pip install 'electra-scale\[report\]'"):
        write_report([run], examples=False)
    assert (run / "report.html").read_bytes() == before
    assert [path.name for path in run.glob("*tmp*")] == []


def test_a_run_without_a_checkpoint_says_why_there_are_no_examples(make_run: MakeRun) -> None:
    run = make_run(rows=[few(1, disc__auc=0.5)])
    text = Parsed(write_report([run]).read_text("utf-8")).text
    assert re.search(r"No examples: .*checkpoint", text)


def test_labels_keep_their_distance_and_stay_inside() -> None:
    assert apart([0.5], 0.1) == [0.5]
    assert apart([0.5, 0.52, 0.9], 0.1) == pytest.approx([0.5, 0.6, 0.9])
    assert apart([0.97, 0.98, 1.0], 0.1) == pytest.approx([0.8, 0.9, 1.0])


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.61234, "0.6123"), (12345.6, "12,346"), (2e-5, "2e-5"), (3.2e7, "32 M"), (math.nan, "not finite")],
)
def test_numbers_have_four_digits_that_matter(value: float, shown: str) -> None:
    assert short(value) == shown
