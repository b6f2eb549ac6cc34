"""Whatever stands in token_counts.npy, readers answer with one line, never with a crash or code that runs."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.places.open import open_place
from data_pipeline.report.verify import verify_store
from data_pipeline.store.manifest import load_manifest
from data_pipeline.store.token_counts import load_token_counts
from tests.unit.data_pipeline.report.test_verify import rewrite


def _npy(array: np.ndarray, **options: Any) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, **options)
    return sink.getvalue()


def _header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    width = 2 if version[0] == 1 else 4
    body = text.encode()
    return b"\x93NUMPY" + bytes(version) + len(body).to_bytes(width, "little") + body


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was run",))


_HOSTILE_COUNTS = {
    "empty": b"",
    "text": b"hello",
    "pickle": pickle.dumps(_Bomb()),
    "objects": _npy(np.array([_Bomb()], object), allow_pickle=True),
    "short": _npy(np.zeros(199, np.int64)),
    "long": _npy(np.zeros(201, np.int64)),
    "floats": _npy(np.zeros(200)),
    "big-endian": _npy(np.zeros(200, ">i8")),
    "two dimensions": _npy(np.zeros((200, 1), np.int64)),
    "cut": _npy(np.zeros(200, np.int64))[:-1],
    "trailing": _npy(np.zeros(200, np.int64)) + b"x",
    "huge shape": _header("{'descr': '<i8', 'fortran_order': False, 'shape': (4611686018427387904,)}\n"),
    "negative shape": _header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}\n"),
    "no shape": _header("{'descr': '<i8', 'fortran_order': False}\n"),
    "code": _header("__import__('os').abort()\n"),
    "deep": _header("(" * 5000),
    "huge header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "version 3": _header("{'descr': '<i8', 'fortran_order': False, 'shape': (200,)}\n", (3, 0)) + bytes(1600),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(2000),
    "zip": b"PK\x03\x04" + bytes(100),
}


@pytest.mark.parametrize("kind", _HOSTILE_COUNTS)
def test_hostile_token_counts_give_one_line(store: Path, kind: str) -> None:
    data = _HOSTILE_COUNTS[kind]
    (store / "token_counts.npy").write_bytes(data)
    manifest = rewrite(
        store,
        token_counts=dataclasses.replace(
            load_manifest(open_place(store)).token_counts, sha256=hashlib.sha256(data).hexdigest()
        ),
    )
    with pytest.raises(UserError, match=r"token_counts\.npy") as caught:
        load_token_counts(open_place(store), manifest)
    assert "\n" not in str(caught.value)
    (problem,) = verify_store(store)
    assert problem.startswith("token_counts.npy: ")
