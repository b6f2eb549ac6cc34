"""Rows come out of every kind of file as they went in, and what is damaged is named with its line."""

from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from data_pipeline.errors import UserError
from electra_scale.finetune.tasks.known import known_task
from electra_scale.finetune.tasks.rows import Source, read_file
from tests.support.fixtures.small_encoders import write_rows

ROWS = [{"text": 'a "quoted", text', "label": "1"}, {"text": "zwei\nZeilen é", "label": "0"}]


def test_the_same_rows_come_from_every_kind_of_file(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", ROWS)
    write_rows(tmp_path / "a.jsonl.gz", ROWS)
    csv = 'text,label\n"a ""quoted"", text",1\n"zwei\nZeilen é",0\n'
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + csv.encode())
    (tmp_path / "a.tsv.gz").write_bytes(
        gzip.compress(csv.replace(",1", "\t1").replace(",0", "\t0").replace("text,label", "text\tlabel").encode())
    )
    parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for path in sorted(tmp_path.iterdir()):
        assert [dict(row) for row in read_file(path).rows] == ROWS, path.name


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b'["a"]\n', "line 1 is not an object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "is not text in UTF-8"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2 has 3 fields, its header 2"),
        ("a.csv", b"a,a\n1,2\n", "two columns 'a'"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9], "is damaged or not whole"),
        ("a.jsonl.gz", b"plain", "is damaged or not whole"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
        ("a.xlsx", b"", "has an unknown ending"),
    ],
)
def test_a_damaged_file_is_named(name: str, content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_file(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for name in ("no.jsonl", "no.parquet"):
        with pytest.raises(UserError, match="cannot be read"):
            read_file(tmp_path / name)


def test_a_folder_is_that_of_all_tasks_or_of_one(tmp_path: Path) -> None:
    write_rows(tmp_path / "cola" / "train.jsonl", [{"sentence": "a", "label": 1}])
    for folder in (tmp_path, tmp_path / "cola"):
        assert len(Source(folder=folder).read(known_task("cola"))["train"].rows) == 1
    with pytest.raises(UserError, match=r"has no folder rte for task rte; it has cola"):
        Source(folder=tmp_path).read(known_task("rte"))


def test_a_name_of_datasets_brings_names_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-PER"])),
        }
    )
    rows = datasets.Dataset.from_list([{"tokens": ["a", "b"], "tags": [0, 1]}], features=features)
    (tmp_path / "set").mkdir()
    rows.to_parquet(tmp_path / "set" / "train.parquet")
    found = Source(dataset=str(tmp_path / "set")).read(known_task("ner"))
    assert [dict(row) for row in found["train"].rows] == [{"tokens": ["a", "b"], "tags": ["O", "B-PER"]}]
    with pytest.raises(UserError, match="cannot be had through the datasets library"):
        Source(dataset=str(tmp_path / "none")).read(known_task("ner"))
