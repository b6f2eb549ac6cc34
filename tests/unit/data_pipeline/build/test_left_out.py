"""What a build leaves out is reported by file and reason, refused above a share, and counted the same however the work
is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.build import build as build_module
from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, CleanConfig, SourceConfig, TokenizerConfig, check_config
from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.describe import describe_store
from data_pipeline.report.page import write_report
from data_pipeline.report.verify import verify_store
from data_pipeline.store.left_out import load_left_out
from tests.support.fixtures.builds import store_bytes
from tests.unit.data_pipeline.conftest import make_config, make_texts

Changes = dict[str, Any]


def lines_of(*values: object) -> bytes:
    return b"".join((v if isinstance(v, bytes) else json.dumps(v).encode()) + b"\n" for v in values)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Four files of JSON Lines; of 400 records 100 give text, twice five of them the same."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = make_texts(95)
    (folder / "a.jsonl").write_bytes(lines_of(*({"text": text} for text in [*texts, *texts[:5]])))
    (folder / "b.jsonl").write_bytes(lines_of(*({"id": n, "body": "x"} for n in range(100))))
    (folder / "c.csv").write_bytes(lines_of(*(f"{n},a name,a place".encode() for n in range(100))))
    (folder / "d.jsonl").write_bytes(
        lines_of(
            *[{"text": None}] * 20,
            *[{"text": 5}] * 10,
            *[{"text": ["a"]}] * 10,
            *[b'{"text": "\xff"}'] * 20,
            *[{"text": ""}] * 10,
            *[{"text": " \u00a0\n"}] * 10,
            *[[1, 2]] * 10,
            *[b'{"text": "\\ud800"}'] * 10,
        )
    )
    return folder


def config_of(corpus: Path, out: str = "store", **changes: Any) -> BuildConfig:
    changes = {"most_left_out": 0.8, "clean": CleanConfig(filters=[]), **changes}
    return make_config(corpus.parent / out, SourceConfig(kind="jsonl", paths=[str(corpus)]), **changes)


REASONS = {
    ("b.jsonl", "no_field"): 100,
    ("c.csv", "not_json"): 100,
    ("d.jsonl", "not_text"): 40,
    ("d.jsonl", "not_utf8"): 20,
    ("d.jsonl", "empty"): 20,
    ("d.jsonl", "not_an_object"): 10,
    ("d.jsonl", "half_pair"): 10,
}


def test_the_end_of_a_build_names_files_reasons_counts_and_examples(
    corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = build_store(config_of(corpus))
    shown = capsys.readouterr().err.splitlines()
    end = shown[next(n for n, line in enumerate(shown) if line.startswith("built ")) + 1 :]
    assert end[0] == "warning: sources[0]: 300 of 400 records left out (75 %)"
    assert f"  {corpus}/b.jsonl: 100 no field 'text', such as a record that has id, body" in end
    assert f"  {corpus}/c.csv: 100 not JSON, such as 0,a name,a place" in end
    assert f"  {corpus}/d.jsonl: 40 field 'text' holds no text, such as a record where it is null" in end
    assert len(end) == 1 + len(REASONS) + 1
    assert end[-1] == f"dropped as set: 5 equal to an earlier one (such as one of {corpus}/a.jsonl)"
    (found,) = load_left_out(open_place(corpus.parent / "store"))
    assert (found.records, found.left_out, found.share) == (400, 300, 0.75)
    assert {(file.name, file.reason): file.count for file in found.files} == REASONS
    inputs = [entry["name"] for entry in manifest.settings["sources"][0]["inputs"]]
    assert all(inputs[file.input] == file.name for file in found.files)
    assert manifest.counts["bad_lines"] == 280
    assert manifest.counts["too_short"] == 20
    described = list(describe_store(corpus.parent / "store", 0))
    assert "sources[0]: 300 of 400 records left out (75 %)" in described
    assert "  b.jsonl: 100 no field 'text', such as a record that has id, body" in described
    assert verify_store(corpus.parent / "store") == []
    write_report(corpus.parent / "store", corpus.parent / "page.html")
    page = (corpus.parent / "page.html").read_text()
    assert "source 0: 300 of 400 records (75 %)" in page
    assert "<td>0: b.jsonl</td><td>no field &#x27;text&#x27;</td><td>100</td>" in page


@pytest.mark.slow
@pytest.mark.parametrize("given", [False, True])
def test_a_share_above_the_limit_is_refused_and_what_was_read_stays(
    corpus: Path, given: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes: Changes = {}
    if given:
        build_store(config_of(corpus, "vocabulary"))
        changes["tokenizer"] = TokenizerConfig(path=str(corpus.parent / "vocabulary" / "tokenizer"))
    build_store(config_of(corpus, "straight", **changes))
    for share in (0.05, 0.0, 0.749):
        with pytest.raises(UserError) as raised:
            build_store(config_of(corpus, most_left_out=share, **changes))
        line = str(raised.value)
        assert f"sources[0]: 300 of 400 records left out (75 %), more than most_left_out {share:g}: " in line
        assert f"{corpus}/b.jsonl: 100 no field 'text', such as a record that has id, body" in line
        assert "or continue with most_left_out 0.75" in line
        assert not (corpus.parent / "store" / "manifest.json").exists()
    for step in ("read_step", "read_and_tokenize_step"):
        monkeypatch.setattr(build_module, step, None)  # what was read is not read again
    capsys.readouterr()
    build_store(config_of(corpus, most_left_out=0.75, **changes))
    assert "tasks were finished before" in capsys.readouterr().err
    assert store_bytes(corpus.parent / "store") == store_bytes(corpus.parent / "straight")
    # The share is no setting of the store.
    assert build_store(config_of(corpus, most_left_out=0.0, **changes)).fingerprint


@pytest.mark.slow
def test_counts_are_the_same_for_any_division_of_the_work(corpus: Path, tmp_path: Path) -> None:
    found = []
    for name, task_bytes, workers in (("one", 1 << 20, 1), ("many", 1024, 2)):
        build_store(config_of(corpus, name, task_bytes=task_bytes, workers=workers))
        found.append(load_left_out(open_place(tmp_path / name)))
    assert found[0] == found[1]


@pytest.mark.slow
def test_counts_survive_a_kill_and_are_checked_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    build_store(config_of(corpus, "straight"))
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "tokenize_step", killed)
        with pytest.raises(Killed):
            build_store(config_of(corpus))
    # The decisions are recorded; a lower share than theirs is refused all the same.
    with pytest.raises(UserError, match=r"more than most_left_out 0\.1"):
        build_store(config_of(corpus, most_left_out=0.1))
    build_store(config_of(corpus))
    assert store_bytes(corpus.parent / "store") == store_bytes(corpus.parent / "straight")


@pytest.mark.slow
def test_one_bad_source_among_good_ones_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("\n".join(f"Good line {n}." for n in range(7000)))
    config = config_of(corpus, most_left_out=0.05)
    config.sources.insert(0, SourceConfig(paths=[str(tmp_path / "good.txt")], documents="line"))
    with pytest.raises(UserError, match=r"sources\[1\]: 300 of 400 records left out"):
        build_store(config)


def test_a_store_of_good_input_has_no_list_and_its_bytes_of_before(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "bcd":
        next(corpus.glob(f"{name}.*")).unlink()
    manifest = build_store(config_of(corpus, most_left_out=0.0))
    assert not (tmp_path / "store" / "left_out.json").exists()
    assert "most_left_out" not in manifest.settings
    assert "left out" not in capsys.readouterr().err
    assert set(manifest.counts) == {
        "bad_lines", "bytes_read", "characters", "documents", "documents_heldout", "documents_read", "duplicates",
        "near_duplicates", "skipped", "tokens", "tokens_heldout", "too_long", "too_short", "unknown_tokens",
        "without_tokens", "words",
    }  # fmt: skip


def test_what_cleaning_drops_is_reported_and_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = make_texts(40)
    (tmp_path / "a.txt").write_text(
        "\n".join([*texts, *["tiny"] * 30, *["y" * 3000] * 20, *[f"# # # # # # {n}" for n in range(9)]])
    )
    source = SourceConfig(paths=[str(tmp_path / "a.txt")], documents="line")
    clean = CleanConfig(min_chars=10, max_chars=2000, filters=["symbols"])
    build_store(make_config(tmp_path / "s", source, clean=clean, most_left_out=0.0))
    shown = capsys.readouterr().err.splitlines()[-1]
    where = f"(such as one of {tmp_path}/a.txt)"
    assert shown.startswith("dropped as set: ")
    for part in (
        f"30 shorter than clean.min_chars {where}",
        f"20 longer than clean.max_chars {where}",
        f"9 by clean.filters symbols {where}",
    ):
        assert part in shown


def test_lines_of_text_and_rows_of_tables_are_counted_too(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.txt").write_bytes(b"good line\nbad \xff line\n\n" * 10)
    pq.write_table(pa.table({"text": [*make_texts(15), None, "", " ", None, None]}), tmp_path / "b.parquet")
    sources = [
        SourceConfig(paths=[str(tmp_path / "t")]),
        SourceConfig(kind="parquet", paths=[str(tmp_path / "b.parquet")]),
    ]
    build_store(make_config(tmp_path / "s", *sources, most_left_out=0.5, clean=CleanConfig(deduplicate=False)))
    text, rows = load_left_out(open_place(tmp_path / "s"))
    assert (text.records, text.left_out) == (20, 10)
    assert [(file.reason, file.count) for file in text.files] == [("not_utf8", 10)]
    assert (rows.records, rows.left_out) == (20, 5)
    assert {file.reason: (file.count, file.example) for file in rows.files} == {
        "not_text": (3, "row 15 of row group 0, which has null"),
        "empty": (2, "a record of no length"),
    }


def test_a_source_of_very_many_bad_files_is_summed_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("data_pipeline.build.left_out._MOST_FILES", 20)
    (tmp_path / "t").mkdir()
    for number in range(40):
        (tmp_path / "t" / f"{number:02}.jsonl").write_bytes(
            lines_of({"text": f"text {number}"}, *[b"{"] * (number + 1))
        )
    source = SourceConfig(kind="jsonl", paths=[str(tmp_path / "t")])
    config = make_config(
        tmp_path / "s", source, most_left_out=1.0, tokenizer=TokenizerConfig(vocab_size=40, min_frequency=1)
    )
    build_store(config)
    (found,) = load_left_out(open_place(tmp_path / "s"))
    assert len(found.files) == 20
    assert found.left_out == sum(file.count for file in found.files) + found.other_records == 820
    assert found.other_files == 20
    assert (
        "  and 665 more; left_out.json in the store lists them, but for 610 of 20 other files"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(corpus: Path, share: float) -> None:
    with pytest.raises(UserError, match=r"most_left_out is .*: it must be between 0 and 1"):
        check_config(config_of(corpus, most_left_out=share))
