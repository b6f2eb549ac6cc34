"""Every document of every kind of source is read exactly once, however the work is divided."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import SourceConfig
from data_pipeline.errors import UserError
from data_pipeline.read.documents import ReadCounts, read_task
from data_pipeline.read.inputs import find_inputs
from data_pipeline.read.tasks import plan_tasks

TEXTS = ["First document, with two\nlines.", "Second: grüße, 東京.", "Third.", "Fourth one."]


def read_all(task_bytes: int, *sources: SourceConfig) -> tuple[list[str], ReadCounts]:
    counts = ReadCounts()
    inputs = find_inputs(sources)
    found: list[str] = []
    for task in plan_tasks(sources, inputs, task_bytes):
        found.extend(read_task(task, sources[task.source], counts))
    return found, counts


def text_source(path: Path, documents: Any) -> SourceConfig:
    return SourceConfig(kind="text", paths=[str(path)], documents=documents)


def reference_blank_line(data: bytes) -> list[str]:
    documents: list[list[str]] = [[]]
    for line in data.split(b"\n"):
        if line.strip():
            documents[-1].append(line.decode().rstrip("\r"))
        else:
            documents.append([])
    return ["\n".join(lines) for lines in documents if lines]


def reference_line(data: bytes) -> list[str]:
    return [line.decode().rstrip("\r") for line in data.split(b"\n") if line.strip()]


files = st.lists(st.sampled_from([b"a", b"bc", "é".encode(), b" ", b"\n", b"\n\n", b"\r\n", b"\t"]), max_size=60)


@settings(max_examples=300, deadline=None)
@given(parts=files, task_bytes=st.integers(1, 40))
def test_byte_ranges_split_text_exactly(
    tmp_path_factory: pytest.TempPathFactory, parts: list[bytes], task_bytes: int
) -> None:
    data = b"".join(parts)
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(data)
    for documents, reference in (("blank_line", reference_blank_line), ("line", reference_line)):
        found, counts = read_all(task_bytes, text_source(path, documents))
        assert [text.replace("\r\n", "\n").strip("\r\n") for text in found] == [
            text.strip("\r\n") for text in reference(data)
        ]
        assert counts.bytes_read == len(data)
        assert counts.documents_read == len(found)
        assert counts.bad_lines == 0


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=20), max_size=20), task_bytes=st.integers(1, 60))
def test_byte_ranges_split_json_lines_exactly(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], task_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    found, counts = read_all(task_bytes, SourceConfig(kind="jsonl", paths=[str(path)]))
    assert found == texts
    assert counts.bad_lines == 0


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
records = st.dictionaries(st.sampled_from(["text", "other"]), json_values, max_size=2)
ODD_LINES = [
    '{"text": "half \\ud83d"}',
    '{"text": "whole \\ud83d\\ude00"}',
    '{"text": "one", "text": "two"}',
    '{"text": "a"} {"text": "b"}',
    '{"text": "many digits", "n": 123456789012345678901234567890}',
    '{"text": "no number", "n": NaN}',
    '{"text": "too large", "n": 1e999}',
    '{"text": "a\ttab"}',
    '{"text": "nothing \\u0000"}',
    '\ufeff{"text": "a mark"}',
    '  {"text": "blanks"} \r',
    "[" * 2000 + "]" * 2000,
]


@settings(max_examples=100, deadline=None)
@given(line=st.builds(json.dumps, records | json_values, ensure_ascii=st.booleans()) | st.sampled_from(ODD_LINES))
def test_the_quicker_parser_changes_no_document_and_no_count(
    tmp_path_factory: pytest.TempPathFactory, line: str
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "a.jsonl"
    path.write_bytes(line.encode("utf-8", "surrogatepass") + b"\n")
    source = SourceConfig(kind="jsonl", paths=[str(path)])
    found, counts = read_all(1000, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("data_pipeline.read.documents.orjson.loads", _refuse)
        assert read_all(1000, source) == (found, counts)


def _refuse(_: bytes) -> Any:
    raise orjson.JSONDecodeError("not asked", "", 0)


def test_a_file_can_be_a_document(tmp_path: Path) -> None:
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number}.txt").write_text(text + "\n\nMore.", "utf-8")
    found, _ = read_all(50, text_source(tmp_path, "file"))
    assert found == [text + "\n\nMore." for text in TEXTS]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst", ".bz2"])
@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_compressed_files_give_what_plain_ones_give(tmp_path: Path, ending: str, kind: Any) -> None:
    if kind == "text":
        data = "\n\n".join(TEXTS).encode()
    else:
        data = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    compress = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}[ending]
    packed = compress(data)
    path = tmp_path / f"a.{kind}{ending}"
    path.write_bytes(packed)
    found, counts = read_all(16, SourceConfig(kind=kind, paths=[str(path)]))
    assert [text.strip() for text in found] == TEXTS
    assert counts.bytes_read == len(data)
    if ending:
        path.write_bytes(packed * 2)  # concatenated members, as `cat` makes them
        again, _ = read_all(16, SourceConfig(kind=kind, paths=[str(path)]))
        assert len(again) >= 2 * len(TEXTS) - 1
        path.write_bytes(packed[:-6])
        with pytest.raises(UserError, match=f"cannot read {path}"):
            read_all(16, SourceConfig(kind=kind, paths=[str(path)]))


def test_parquet_row_groups_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"body": [*TEXTS, None], "n": list(range(5))}), path, row_group_size=2)
    source = SourceConfig(kind="parquet", paths=[str(path)], field="body")
    assert len(plan_tasks([source], find_inputs([source]), 1)) == 3
    found, counts = read_all(1, source)
    assert found == TEXTS
    assert counts.bad_lines == 1  # the null
    with pytest.raises(UserError, match="no column 'text': set field to one of body, n"):
        read_all(1, SourceConfig(kind="parquet", paths=[str(path)]))
    with pytest.raises(UserError, match="holds int64, not text"):
        read_all(1, SourceConfig(kind="parquet", paths=[str(path)], field="n"))
    path.write_bytes(b"no parquet")
    with pytest.raises(UserError, match="as Parquet"):
        read_all(1, source)


def test_saved_and_loadable_data_sets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    data = datasets.Dataset.from_dict({"text": TEXTS, "n": [1, 2, 3, 4]})
    data.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(tmp_path / "several")
    for name, split, expected in (("saved", "train", TEXTS), ("several", "test", TEXTS[:1])):
        source = SourceConfig(kind="datasets", name=str(tmp_path / name), split=split)
        assert read_all(1, source)[0] == expected
    with pytest.raises(UserError, match="no split 'dev': it has train, test"):
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "several"), split="dev"))
    with pytest.raises(UserError, match="no column 'body'"):
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "saved"), field="body"))
    with pytest.raises(UserError, match="cannot load data set"):
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "nowhere")))


def test_a_data_set_or_parquet_file_may_have_any_name_or_is_refused_for_it(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(tmp_path / "plain")
    for name in ("r[1] *?#%", "a::b"):
        (tmp_path / "plain").rename(tmp_path / name)
        assert read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / name)))[0] == TEXTS
        (tmp_path / name).rename(tmp_path / "plain")
    (tmp_path / "files[1]").mkdir()
    (tmp_path / "files[1]/a.jsonl").write_text('{"text": "one"}\n')
    with pytest.raises(UserError, match=r"takes characters of this folder's path .* for a pattern: rename the folder"):
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "files[1]")))
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "plain.parquet")
    unusual = tmp_path / os.fsdecode(b"caf\xe9 [1]#%20.parquet")
    (tmp_path / "plain.parquet").rename(unusual)
    assert read_all(1, SourceConfig(kind="parquet", paths=[str(unusual)]))[0] == TEXTS


@pytest.mark.parametrize("form", ["arrow", "numpy", "torch", "pandas"])
def test_a_format_chosen_for_training_changes_no_text(tmp_path: Path, form: str) -> None:
    data = datasets.Dataset.from_dict({"n": [1, 2, 3, 4], "text": TEXTS})
    data.with_format(form).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": data.with_format(form, columns=["n"])}).save_to_disk(tmp_path / "several")
    for name in ("saved", "several"):
        found, counts = read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / name)))
        assert found == TEXTS
        assert all(type(text) is str for text in found)
        assert counts.bad_lines == 0
    with pytest.raises(UserError, match="column 'n' holds int64, not text: set field to one of n, text"):
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "saved"), field="n"))


def _cut(folder: Path) -> None:
    file = next(folder.glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (lambda folder: next(folder.glob("*.arrow")).unlink(), r"No such file or directory: '.*\.arrow'"),
        (_cut, "Expected to read .* metadata bytes"),
        (lambda folder: (folder / "state.json").write_text("{}"), "KeyError: '_data_files'"),
        (lambda folder: (folder / "state.json").write_text("{"), "Expecting property name"),
        (lambda folder: (folder / "dataset_info.json").write_text("[]"), "AttributeError: 'list' object"),
    ],
)
def test_a_damaged_data_set_is_refused_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], object], cause: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "saved"
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder)
    spoil(folder)
    with pytest.raises(UserError, match=f"cannot load data set '{folder}' .*{cause}.*; check the folder") as caught:
        read_all(1, SourceConfig(kind="datasets", name=str(folder)))
    assert "\n" not in str(caught.value)
    assert "hub" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        ({}, "doesn't contain any data files"),
        ({"x.bin": "abc"}, "No \\(supported\\) data files found"),
        ({"given.py": "raise SystemExit(3)"}, "Dataset scripts are no longer supported"),
        ({"x.jsonl": '{"text": "a"}\n{"text": 5}\n{bad'}, "JSON parse error"),
        ({"x.csv": "text,n\na,1\n", "y.csv": "other\na\n"}, "while generating the dataset: "),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cause: str
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "given").mkdir()
    for name, content in files.items():
        (tmp_path / "given" / name).write_text(content)
    with pytest.raises(UserError, match=f"{cause}.*; check the folder") as caught:
        read_all(1, SourceConfig(kind="datasets", name=str(tmp_path / "given")))
    assert "\n" not in str(caught.value)


def test_columns_of_parquet_are_told_apart_or_refused(tmp_path: Path) -> None:
    def read(table: pa.Table, field: str = "text") -> list[str]:
        pq.write_table(table, tmp_path / "a.parquet")
        return read_all(1, SourceConfig(kind="parquet", paths=[str(tmp_path / "a.parquet")], field=field))[0]

    one, two, number = pa.array(["a", None]), pa.array(["b", "c"]), pa.array([1, 2])
    with pytest.raises(UserError, match=r"a\.parquet has 2 columns 'text', and one can't be told from the other"):
        read(pa.Table.from_arrays([one, two, number], ["text", "text", "n"]))
    assert read(pa.Table.from_arrays([number, two, number], ["n", "text", "n"])) == ["b", "c"]
    nested = pa.array([{"b": "wrong"}, {"b": "wrong"}])
    assert read(pa.Table.from_arrays([nested, two], ["text", "text.b"]), "text.b") == ["b", "c"]
    for kind in (pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())):
        assert read(pa.table({"text": two.cast(kind) if kind != pa.string_view() else pa.array(["b", "c"], kind)})) == [
            "b",
            "c",
        ]
    for refused in (nested, number, pa.array([["a"], ["b"]]), number.dictionary_encode(), pa.array([b"a", b"b"])):
        with pytest.raises(UserError, match=r"column 'text' holds .*, not text: choose a column of strings"):
            read(pa.table({"text": refused}))
    assert read(pa.table({"text": pa.array([], pa.string())})) == []
    with pytest.raises(UserError, match=r"set field to one of c0, .*, c19, \.\.\.$"):
        read(pa.table({f"c{number}": ["x"] for number in range(30)}))
    with pq.ParquetWriter(tmp_path / "none.parquet", pa.schema([("text", pa.string())])):
        pass
    assert read_all(1, SourceConfig(kind="parquet", paths=[str(tmp_path / "none.parquet")]))[0] == []


@pytest.mark.parametrize("plain_footer", [True, False])
def test_an_encrypted_parquet_file_is_refused_by_name(tmp_path: Path, plain_footer: bool) -> None:
    class Keys(encryption.KmsClient):  # type: ignore[misc, name-defined]
        def __init__(self, _: object) -> None:
            super().__init__()

        def wrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64encode(key)

        def unwrap_key(self, key: bytes, _: str) -> bytes:
            return base64.b64decode(key)

    settings = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["text"]}, plaintext_footer=plain_footer
    )
    table = pa.table({"text": TEXTS})
    properties = encryption.CryptoFactory(Keys).file_encryption_properties(encryption.KmsConnectionConfig(), settings)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    with pytest.raises(UserError, match=f"cannot read {path}.*(encrypt|decrypt)") as caught:
        read_all(1, SourceConfig(kind="parquet", paths=[str(path)]))
    assert "\n" not in str(caught.value)


def test_broken_lines_are_counted_and_skipped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "good"}', b"{", b'{"text": 5}', b'{"other": "x"}', b"[1]", b'{"text": "\xff"}', b""]
    lines += [rb'{"text": "half a pair \ud800"}', b'{"text": "also good"}']
    path.write_bytes(b"\n".join(lines))
    found, counts = read_all(10, SourceConfig(kind="jsonl", paths=[str(path)]))
    assert found == ["good", "also good"]
    assert counts.bad_lines == 6


def test_broken_utf8_costs_its_line_only(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nbad \xff line\nfine\n\nsecond\n")
    found, counts = read_all(1000, text_source(path, "blank_line"))
    assert found == ["good\nfine\n", "second\n"]
    assert counts.bad_lines == 1
    assert read_all(1000, text_source(path, "file"))[0] == ["good\nfine\n\nsecond\n"]
    assert len(read_all(1000, text_source(path, "line"))[0]) == 3


def test_an_endless_line_is_skipped_without_being_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_pipeline.read.documents.MAX_RAW_BYTES", 100)
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n" + b"x" * 1000 + b"\n\ntwo\n")
    for documents, expected in (("line", ["one\n", "two\n"]), ("blank_line", ["two\n"]), ("file", [])):
        found, counts = read_all(5000, text_source(path, documents))
        assert found == expected
        assert counts.oversized == 1


def test_folders_and_globs_are_expanded_in_order_and_once(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.txt", "a.txt", "b/1.txt", ".hidden.txt"):
        (tmp_path / name).write_text(f"{name}\n")
    everything = SourceConfig(kind="text", paths=[str(tmp_path), str(tmp_path / "**" / "*.txt")])
    assert [text.strip() for text in read_all(1000, everything)[0]] == ["a.txt", "b/1.txt", "b/2.txt"]
    with pytest.raises(UserError, match=r"'/no/\*\.txt' matches no file"):
        find_inputs([SourceConfig(kind="text", paths=["/no/*.txt"])])


def test_small_files_share_a_task_and_large_ones_are_divided(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("x" * 100)
    (tmp_path / "large.txt").write_text("x" * 1000)
    source = text_source(tmp_path, "line")
    tasks = plan_tasks([source], find_inputs([source]), 500)
    assert [len(task.pieces) for task in tasks] == [5, 5, 1, 1]
    assert [task.index for task in tasks] == [0, 1, 2, 3]
