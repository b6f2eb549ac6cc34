"""``electra-data corpus``: real English text for the demo, from whatever this machine can reach."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import math
import multiprocessing
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from data_pipeline.corpus.debian import choose_packages, fetch_packages
from data_pipeline.corpus.prose import dictionary_documents, page_paragraphs, wikitext_documents
from data_pipeline.errors import UserError
from data_pipeline.places.atomic import sync_folder, write_bytes
from data_pipeline.progress import log

CORPUS_INFO = "corpus.json"
PARTS = 8

_HUB_NAME, _HUB_CONFIG = "Salesforce/wikitext", "wikitext-103-raw-v1"
_PROBE_S = 4.0
_SHUFFLE_SEED = b"electra-scale demo corpus 1"
_MAX_PROCESSES = 8


@dataclasses.dataclass(frozen=True)
class Document:
    """One document of the corpus: prose paragraphs under an id that names where they came from."""

    id: str
    source: str
    paragraphs: list[str]


def fetch_corpus(out: str | Path, max_mb: float) -> dict[str, Any]:
    """Fetch at most ``max_mb`` MB of clean text into ``out`` and return the content of ``corpus.json``.

    A finished corpus of the same size is kept as it is.

    Raises:
        UserError: nothing can be fetched here, or ``out`` holds something else.
    """
    folder = Path(out).expanduser()
    if not 0 < max_mb < math.inf:
        raise UserError(f"--max-mb is {max_mb:g}: it must be above 0 and finite")
    info = _existing(folder, max_mb)
    if info is not None:
        log(f"corpus: {folder} exists already ({_figures(info)}): nothing to do")
        return info
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=".corpus-", dir=folder.parent) as work:
        origin, documents = _documents(Path(work), max_mb)
        result = Path(work) / "result"
        info = _write(result, documents, origin, max_mb)
        os.replace(result, folder)
    sync_folder(folder.parent)
    log(f"corpus: {folder} from {origin} ({_figures(info)}) in {time.monotonic() - started:.0f} s")
    return info


def _figures(info: dict[str, Any]) -> str:
    return f"{info['documents']:,} documents, {info['bytes'] / 1e6:.1f} MB of text"


def _existing(folder: Path, max_mb: float) -> dict[str, Any] | None:
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise UserError(f"{folder} is a file: choose the name of a new folder")
    try:
        info: dict[str, Any] = json.loads((folder / CORPUS_INFO).read_bytes())
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no corpus: choose a new folder") from None
        return None
    if info.get("max_mb") != max_mb:
        raise UserError(
            f"{folder} holds a corpus made with --max-mb {info.get('max_mb'):g}, not {max_mb:g}: "
            "choose another folder or remove it"
        )
    return info


def _documents(work: Path, max_mb: float) -> tuple[str, list[Document]]:
    reasons: list[str] = []
    if hub_answers():
        log(f"corpus: the hub answers, taking {_HUB_NAME} ({_HUB_CONFIG})")
        try:
            return f"hub data set {_HUB_NAME}/{_HUB_CONFIG}", _limited(_from_hub(), max_mb)
        except UserError as error:
            reasons.append(str(error))
            log(f"corpus: {error}")
    else:
        reasons.append(f"the hub did not answer within {_PROBE_S:g} s, or is switched off")
    log("corpus: no hub data set, taking documentation packages of the system")
    try:
        return _from_packages(work, max_mb)
    except UserError as error:
        reasons.append(str(error))
    raise UserError(
        f"no text can be fetched here ({'; '.join(reasons)}): give your own files to `electra-data build`, "
        "see docs/data.md"
    )


def hub_answers() -> bool:
    """True when the Hugging Face hub answers within seconds and is not switched off."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("HF_DATASETS_OFFLINE", "0").lower() in (
        "1",
        "true",
        "yes",
        "on",
    ):
        return False
    answered = threading.Event()

    def probe() -> None:
        try:
            with urllib.request.urlopen(f"{constants.ENDPOINT}/api/datasets/{_HUB_NAME}", timeout=_PROBE_S) as reply:
                if reply.status == 200:
                    answered.set()
        except (OSError, ValueError):
            return

    # Looking up a name has no time-out of its own, so the probe runs beside us.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_S + 1)
    return answered.is_set()


def _from_hub() -> Iterator[Document]:
    from data_pipeline.read.hub import stream_texts

    lines = stream_texts(_HUB_NAME, _HUB_CONFIG, "train", "text")
    for number, (title, paragraphs) in enumerate(wikitext_documents(lines)):
        yield Document(f"wikitext/{number:06d}", title, paragraphs)


def _from_packages(work: Path, max_mb: float) -> tuple[str, list[Document]]:
    unpacked = fetch_packages(choose_packages(max_mb), work / "packages")
    log(f"corpus: extracting text from {', '.join(unpacked)}")
    processes = min(len(os.sched_getaffinity(0)), _MAX_PROCESSES)
    try:
        pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
    except OSError as error:
        log(f"warning: one process extracts alone, since no semaphores can be made in /dev/shm ({error.strerror})")
        documents = _limited(_package_documents(unpacked, map), max_mb)
    else:
        with pool:
            documents = _limited(_package_documents(unpacked, functools.partial(pool.map, chunksize=8)), max_mb)
            pool.shutdown(cancel_futures=True)
    if not documents:
        raise UserError("the packages hold no prose")
    used = {document.source for document in documents}
    return f"packages {', '.join(name for name in unpacked if name in used)}", documents


def _package_documents(unpacked: dict[str, Path], apply: Callable[..., Iterator[list[str]]]) -> Iterator[Document]:
    """Documents of unpacked packages; ``apply`` is a ``map``, perhaps one over processes."""
    for name, folder in unpacked.items():
        for path in sorted(folder.rglob("*.dict.dz")):
            for number, entries in enumerate(dictionary_documents(path)):
                yield Document(f"{name}/{number:05d}", name, entries)
        pages = sorted(path for path in folder.rglob("*.html") if path.is_file() and not path.is_symlink())
        for path, paragraphs in zip(pages, apply(page_paragraphs, pages), strict=True):
            yield Document(f"{name}/{path.relative_to(folder)}", name, paragraphs)


def _limited(documents: Iterable[Document], max_mb: float) -> list[Document]:
    """Drop repeated paragraphs and what they leave empty, and stop at the size asked for."""
    seen: set[bytes] = set()
    kept: list[Document] = []
    left = max_mb * 1e6
    for document in documents:
        fresh: list[str] = []
        for paragraph in document.paragraphs:
            data = paragraph.encode()
            digest = hashlib.blake2b(data, digest_size=12).digest()
            if digest not in seen and left >= len(data):
                seen.add(digest)
                fresh.append(paragraph)
                left -= len(data) + 1
        if fresh:
            kept.append(dataclasses.replace(document, paragraphs=fresh))
        if left < 100:
            break
    return kept


def _write(folder: Path, documents: list[Document], origin: str, max_mb: float) -> dict[str, Any]:
    folder.mkdir()
    # Ordered by a hash, so that any part is a sample of the whole, the same one every time.
    shuffled = sorted(documents, key=lambda document: hashlib.blake2b(document.id.encode(), key=_SHUFFLE_SEED).digest())
    size = 0
    for part in range(PARTS):
        buffer = io.BytesIO()
        with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=6, mtime=0) as file:
            for document in shuffled[part::PARTS]:
                text = "\n".join(document.paragraphs)
                size += len(text.encode())
                record = {"id": document.id, "text": text, "source": document.source}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
        write_bytes(folder / f"part-{part:03d}.jsonl.gz", buffer.getvalue())
    info: dict[str, Any] = {
        "origin": origin,
        "max_mb": max_mb,
        "documents": len(documents),
        "bytes": size,
        "parts": PARTS,
    }
    write_bytes(folder / CORPUS_INFO, json.dumps(info, indent=1).encode() + b"\n")
    return info
