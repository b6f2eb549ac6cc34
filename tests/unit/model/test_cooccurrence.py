"""Embeddings from co-occurrence: what is counted, and what comes out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from data_pipeline.errors import UserError
from electra_scale.model import cooccurrence
from electra_scale.model.cooccurrence import cooccurrence_counts, cooccurrence_embeddings, positive_pmi

V, WINDOW = 30, 4


def corpus(documents: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    lengths = random.integers(0, 25, size=documents)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return random.integers(0, V, size=offsets[-1]).astype(np.uint16), offsets


def dense_counts(ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    counts = np.zeros((V, V))
    for start, stop in pairwise(offsets):
        document = ids[start:stop]
        for i, left in enumerate(document):
            for right in document[i + 1 : i + 1 + WINDOW]:
                counts[left, right] += 1
                counts[right, left] += 1
    return counts


@pytest.mark.parametrize("block", [7, 1 << 20])
def test_counts_equal_a_plain_loop_inside_documents(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cooccurrence, "BLOCK", block)
    ids, offsets = corpus()
    counts = cooccurrence_counts(ids, offsets, V, WINDOW)
    np.testing.assert_array_equal(counts.toarray(), dense_counts(ids, offsets))


def test_pairs_of_a_large_vocabulary_are_counted_in_longer_numbers() -> None:
    ids, offsets = corpus()
    counts = cooccurrence_counts(ids, offsets, 70_000, WINDOW).tocoo()
    assert max(counts.row.max(), counts.col.max()) < V
    last = cooccurrence_counts(ids + np.uint32(70_000 - V), offsets, 70_000, WINDOW).tocoo()
    for found, first in ((counts, 0), (last, 70_000 - V)):
        dense = np.zeros((V, V))
        dense[found.row - first, found.col - first] = found.data
        np.testing.assert_array_equal(dense, dense_counts(ids, offsets))


def test_the_solver_multiplies_by_columns_and_gets_the_products_by_rows_to_the_bit() -> None:
    ids, offsets = corpus(400)
    matrix = positive_pmi(cooccurrence_counts(ids, offsets, V, WINDOW))
    assert (matrix != matrix.T).nnz == 0
    for vector in np.random.default_rng(0).normal(size=(20, V)).astype(np.float32):
        np.testing.assert_array_equal(matrix @ vector, matrix.T @ vector)


def test_documents_do_not_touch() -> None:
    counts = cooccurrence_counts(np.array([0, 1, 2, 3]), np.array([0, 2, 4]), V, WINDOW)
    assert {tuple(pair) for pair in np.argwhere(counts.toarray())} == {(0, 1), (1, 0), (2, 3), (3, 2)}


def test_embeddings_are_the_best_low_rank_fit_of_ppmi() -> None:
    ids, offsets = corpus(400)
    counts = dense_counts(ids, offsets)
    with np.errstate(divide="ignore"):
        total = counts.sum()
        expected = np.maximum(0, np.log(counts * total / np.outer(counts.sum(1), counts.sum(0))))
    matrix = positive_pmi(cooccurrence_counts(ids, offsets, V, WINDOW)).toarray()
    np.testing.assert_allclose(matrix, expected, atol=1e-6)
    left, values, _ = np.linalg.svd(expected)
    ours = cooccurrence_embeddings(ids, offsets, V, 6).astype(np.float64)
    # The Gram matrix does not depend on the signs, and the overall scale is fixed by the deviation asked for.
    reference = (left[:, :6] * values[:6]) @ left[:, :6].T
    gram = ours @ ours.T
    gram *= np.linalg.norm(reference) / np.linalg.norm(gram)
    np.testing.assert_allclose(gram, reference, atol=2e-3 * np.abs(reference).max())


def test_same_input_and_seed_same_bits() -> None:
    ids, offsets = corpus(400)
    first, again = (cooccurrence_embeddings(ids, offsets, V, 8, seed=3) for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == (V, 8)
    np.testing.assert_array_equal(first, again)
    other = cooccurrence_embeddings(ids, offsets, V, 8, seed=4)
    np.testing.assert_allclose(first, other, atol=1e-3)


def test_scale_is_the_one_asked_for_and_unseen_tokens_get_it_too() -> None:
    ids, offsets = corpus(400)
    embeddings = cooccurrence_embeddings(ids, offsets, 2 * V, 8, std=0.05)
    assert np.sqrt(np.mean(embeddings[:V] ** 2)) == pytest.approx(0.05, rel=1e-4)
    assert np.sqrt(np.mean(embeddings[V:] ** 2)) == pytest.approx(0.05, rel=0.2)
    assert len(np.unique(embeddings[V:], axis=0)) == V


def test_tokens_with_the_same_contexts_are_near() -> None:
    random = np.random.default_rng(0)
    # Tokens 0 to 9 stand among context tokens 20 to 24, tokens 10 to 19 among 25 to 29.
    documents = []
    for _ in range(600):
        group = int(random.integers(2))
        words = random.integers(10 * group, 10 * group + 10, size=10)
        contexts = random.integers(20 + 5 * group, 25 + 5 * group, size=10)
        documents.append(np.stack([words, contexts], axis=1).ravel())
    ids = np.concatenate(documents)
    embeddings = cooccurrence_embeddings(ids, np.arange(0, len(ids) + 1, 20), V, 4)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    within = (cosine[:10, :10].sum() - 10) / 90
    across = cosine[:10, 10:20].mean()
    assert within > 0.8
    assert across < 0.3


def test_bad_input_is_refused() -> None:
    ids, offsets = corpus()
    with pytest.raises(UserError, match="offsets"):
        cooccurrence_embeddings(ids, offsets[:-1], V, 4)
    with pytest.raises(UserError, match=r"vocab_size is 10"):
        cooccurrence_embeddings(ids, offsets, 10, 4)
    with pytest.raises(UserError, match=r"dimension is 30"):
        cooccurrence_embeddings(ids, offsets, V, V)
    assert cooccurrence_embeddings(ids[:0], np.array([0, 0]), V, 4).shape == (V, 4)
