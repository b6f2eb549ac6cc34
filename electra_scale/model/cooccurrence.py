"""Word embeddings from co-occurrence counts, as a start for small budgets.

Positive pointwise mutual information of tokens within a few positions of each other, then a truncated
singular value decomposition (Levy and Goldberg 2014). It takes seconds and spares a small generator the
long time that it would spend at the unigram distribution.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.linalg import eigsh

from data_pipeline.errors import UserError

# Tokens counted at a time: bounds the pairs held at once to BLOCK per distance.
BLOCK = 1 << 20

# Relative accuracy of the decomposition: far finer than the sampling noise of counts, and half of the time.
TOLERANCE = 1e-3


def cooccurrence_counts(
    ids: npt.NDArray[np.integer], offsets: npt.NDArray[np.integer], vocab_size: int, window: int = 4
) -> sparse.csr_array:
    """How often two tokens stand within ``window`` positions of each other in one document.

    Args:
        ids: (N,) token ids of all documents, end to end.
        offsets: (documents + 1,) where each document starts, and N at the end.
        vocab_size: V.
        window: largest distance counted.

    Returns:
        (V,V) symmetric counts, float64: a pair adds 1 at (a,b) and 1 at (b,a).
    """
    shape = (vocab_size, vocab_size)
    counts = sparse.csr_array(shape, dtype=np.float64)
    # A pair is one number, and pairs are counted by sorting: short numbers take half of the time.
    number: type[np.integer] = np.uint32 if vocab_size**2 < 1 << 32 else np.int64
    no_pair = number(vocab_size**2)
    held = np.empty((window, min(BLOCK, len(ids))), number)
    for start in range(0, len(ids), BLOCK):
        text = ids[start : start + BLOCK + window].astype(number)
        left = text[:BLOCK] * number(vocab_size)
        ends = offsets[np.searchsorted(offsets, start, "right") : np.searchsorted(offsets, start + len(text), "right")]
        block = held[:, : len(left)]
        for distance in range(1, window + 1):
            pairs, right = block[distance - 1], text[distance : distance + len(left)]
            np.add(left[: len(right)], right, out=pairs[: len(right)])
            pairs[len(right) :] = no_pair
            # These have the end of a document between them.
            across = (ends[:, None] - start - np.arange(1, distance + 1)).ravel()
            pairs[across[(across >= 0) & (across < len(left))]] = no_pair
        pairs, times = np.unique(block, return_counts=True)
        inside = pairs < no_pair
        row, column = (part.astype(np.int32) for part in np.divmod(pairs[inside], number(vocab_size)))
        found = (times[inside].astype(np.float64), (row, column))
        counts = counts + sparse.coo_array(found, shape=shape).tocsr()
    return (counts + counts.T).tocsr()


def positive_pmi(counts: sparse.csr_array) -> sparse.csr_array:
    """``max(0, log(c(a,b) T / (c(a) c(b))))`` for (V,V) symmetric counts, with T their sum; (V,V) sparse."""
    marginal = np.asarray(counts.sum(axis=1)).ravel()
    pairs = counts.tocoo()
    row, column = pairs.coords
    information = np.log(pairs.data * marginal.sum() / (marginal[row] * marginal[column]))
    positive = information > 0
    # Single precision halves what each product of the solver reads.
    kept = (information[positive].astype(np.float32), (row[positive], column[positive]))
    return sparse.coo_array(kept, shape=counts.shape).tocsr()


def cooccurrence_embeddings(
    ids: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.integer],
    vocab_size: int,
    dimension: int,
    window: int = 4,
    seed: int = 0,
    std: float = 0.02,
) -> npt.NDArray[np.float32]:
    """Embeddings ``U sqrt(S)`` from the truncated decomposition of the PPMI matrix.

    The matrix is symmetric, so its singular vectors are eigenvectors and the largest singular values are
    the eigenvalues of largest size, which costs half of a general decomposition. Signs are fixed by making
    each column's largest entry positive. Tokens that never occur, and columns past the matrix's rank, are
    drawn from a normal of deviation ``std``, as any embedding would be.

    Args:
        ids: (N,) token ids of all documents, end to end.
        offsets: (documents + 1,) where each document starts, and N at the end.
        vocab_size: V.
        dimension: E, below V.
        window: largest distance at which two tokens of a document co-occur.
        seed: of the solver's start vector and of the rows that are drawn.
        std: root mean square of the entries of tokens that occur.

    Returns:
        (V,E) float32, the same for the same input, seed and number of BLAS threads.

    Raises:
        UserError: offsets that don't cover ids, an id outside the vocabulary, or E not below V.
    """
    offsets = np.asarray(offsets, dtype=np.int64)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(ids) or np.any(np.diff(offsets) < 0):
        raise UserError(
            f"co-occurrence: offsets must rise from 0 to the number of tokens, {len(ids)}; got {len(offsets)} of them"
        )
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        raise UserError(
            f"co-occurrence: token ids span {ids.min()} to {ids.max()} but vocab_size is {vocab_size}; "
            "use the tokenizer that made the ids"
        )
    if not 0 < dimension < vocab_size:
        raise UserError(f"co-occurrence: dimension is {dimension}; it must be from 1 to {vocab_size - 1}")
    random = np.random.default_rng(seed)
    drawn = random.normal(0.0, std, size=(vocab_size, dimension))
    start = random.uniform(-1.0, 1.0, size=vocab_size).astype(np.float32)
    information = positive_pmi(cooccurrence_counts(ids, offsets, vocab_size, window))
    if information.nnz == 0:
        return drawn.astype(np.float32)
    # The transpose is the same matrix by columns, whose products add the same numbers in the same order, but need not
    # wait for each sum of a row: a fifth quicker.
    values, vectors = eigsh(information.T, k=dimension, which="LM", v0=start, tol=TOLERANCE)
    order = np.argsort(-np.abs(values), kind="stable")
    values, vectors = np.abs(values[order]), vectors[:, order]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dimension)])
    # Beyond the rank the eigenvalues are rounding noise and the vectors arbitrary.
    informative = values > 1e-5 * values[0]
    embeddings = vectors * np.sqrt(values)
    occurs = np.diff(information.indptr) > 0
    used = np.ix_(occurs, informative)
    drawn[used] = embeddings[used] * (std / np.sqrt(np.mean(embeddings[used] ** 2)))
    return drawn.astype(np.float32)
