"""Which documents stay does not depend on the memory that deciding takes, and agrees with an obvious loop."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.clean.identity import hash_halves
from data_pipeline.deduplicate import choose
from data_pipeline.deduplicate.choose import (
    HELD_OUT,
    KEPT,
    NEAR,
    SAMPLED,
    TaskDocuments,
    choose_documents,
    first_occurrences,
)

# A document of these tests: which text it has, and its near-duplicate keys.
Document = tuple[int, tuple[int, int]]
NEAR_KEYS = 2


def content_hash(text: int) -> bytes:
    return hashlib.blake2b(str(text).encode(), digest_size=16).digest()


def size_of(text: int) -> int:
    return 5 + text % 7


def band(value: int) -> int:
    return int.from_bytes(hashlib.blake2b(str(value).encode(), digest_size=8).digest(), "little")


def task_documents(documents: list[Document]) -> TaskDocuments:
    hashes = b"".join(content_hash(text) for text, _ in documents)
    return TaskDocuments(
        hashes=np.frombuffer(hashes, np.uint8).reshape(-1, 16),
        sizes=np.array([size_of(text) for text, _ in documents], np.int64),
        bands=np.array([[band(value) for value in keys] for _, keys in documents], np.uint64).reshape(-1, NEAR_KEYS),
    )


def obvious(
    tasks: list[list[Document]], deduplicate: bool, near: bool, held_out: float, sample_bytes: int
) -> list[int]:
    documents = [document for task in tasks for document in task]
    seen: set[int] = set()
    decisions = []
    for text, _ in documents:
        stays = not deduplicate or text not in seen
        seen.add(text)
        aside = int.from_bytes(content_hash(text)[8:], "little") < held_out * 2**64
        decisions.append((KEPT | (HELD_OUT if aside else 0)) if stays else 0)
    if near:
        known: list[set[int]] = [set() for _ in range(NEAR_KEYS)]
        for row, (_, keys) in enumerate(documents):
            if decisions[row]:
                if any(key in known[column] for column, key in enumerate(keys)):
                    decisions[row] = NEAR
                for column, key in enumerate(keys):
                    known[column].add(key)
    train = [row for row, decision in enumerate(decisions) if decision == KEPT]
    ids = np.array([int.from_bytes(content_hash(documents[row][0])[:8], "little") for row in train], np.uint64)
    priorities = choose._scramble(ids, 7).tolist()
    taken = 0
    for _, row in sorted(zip(priorities, train, strict=True)):
        if taken >= sample_bytes:
            break
        decisions[row] |= SAMPLED
        taken += size_of(documents[row][0])
    return decisions


def decided(
    tasks: list[list[Document]], deduplicate: bool, near: bool, held_out: float, sample_bytes: int, memory: int
) -> tuple[list[int], int]:
    counts = [len(task) for task in tasks]
    decisions = np.zeros(sum(counts), np.uint8)

    def each() -> Iterator[TaskDocuments]:
        return map(task_documents, tasks)

    passes = choose_documents(
        each,
        counts,
        decisions,
        deduplicate=deduplicate,
        near_keys=NEAR_KEYS if near else 0,
        held_out=held_out,
        sample_bytes=sample_bytes,
        seed=7,
        memory=memory,
    )
    return decisions.tolist(), passes


corpora = st.lists(
    st.lists(st.tuples(st.integers(0, 25), st.tuples(st.integers(0, 15), st.integers(0, 15)))), max_size=5
)


@settings(max_examples=100, deadline=None)
@given(
    tasks=corpora,
    deduplicate=st.booleans(),
    near=st.booleans(),
    held_out=st.sampled_from([0.0, 0.3]),
    sample_bytes=st.integers(0, 200),
    memory=st.sampled_from([300, 1500, 1 << 30]),
)
def test_decisions_agree_with_an_obvious_loop_for_any_memory(
    tasks: list[list[Document]], deduplicate: bool, near: bool, held_out: float, sample_bytes: int, memory: int
) -> None:
    found, _ = decided(tasks, deduplicate, near, held_out, sample_bytes, memory)
    assert found == obvious(tasks, deduplicate, near, held_out, sample_bytes)


def test_less_memory_takes_more_passes_and_many_equal_documents_take_none() -> None:
    generator = np.random.default_rng(0)
    texts = generator.integers(0, 2000, 6000).tolist()
    tasks: list[list[Document]] = [
        [(text if n % 2 else 1, (text, n)) for n, text in enumerate(texts[begin : begin + 500])]
        for begin in range(0, len(texts), 500)
    ]
    ample, few = decided(tasks, True, True, 0.1, 9000, 1 << 30)
    tight, many = decided(tasks, True, True, 0.1, 9000, 20_000)
    assert tight == ample == obvious(tasks, True, True, 0.1, 9000)
    assert few == 4
    assert many > 50


def test_first_occurrences_agree_with_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    ids, keys = (generator.integers(0, 6, 500).astype(np.uint64) for _ in range(2))
    seen: set[tuple[int, int]] = set()
    expected = []
    for pair in zip(ids.tolist(), keys.tolist(), strict=True):
        expected.append(pair not in seen)
        seen.add(pair)
    assert first_occurrences(ids, keys).tolist() == expected


def test_the_training_sample_is_bounded_and_seeded() -> None:
    tasks = [
        TaskDocuments(
            np.random.default_rng(n).integers(0, 256, (100, 16)).astype(np.uint8),
            np.full(100, 10, np.int64),
            np.zeros((100, 0), np.uint64),
        )
        for n in range(3)
    ]

    def sample(seed: int) -> list[int]:
        decisions = np.zeros(300, np.uint8)
        choose_documents(
            lambda: iter(tasks),
            [100] * 3,
            decisions,
            deduplicate=True,
            near_keys=0,
            held_out=0.5,
            sample_bytes=200,
            seed=seed,
            memory=1000,
        )
        assert not ((decisions & SAMPLED != 0) & (decisions & HELD_OUT != 0)).any()
        return np.flatnonzero(decisions & SAMPLED).tolist()

    assert len(sample(0)) == 20
    assert sample(0) == sample(0) != sample(1)


def test_hash_halves_are_document_id_and_split_key() -> None:
    ids, keys = hash_halves(np.arange(32, dtype=np.uint8).reshape(2, 16))
    assert ids[1] == int.from_bytes(bytes(range(16, 24)), "little")
    assert keys[0] == int.from_bytes(bytes(range(8, 16)), "little")
