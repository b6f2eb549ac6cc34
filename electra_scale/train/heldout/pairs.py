"""Pairs without labels while a run trains: held-out sentences against copies that are wrong in one place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from data_pipeline.tokenize.tokenizer import load_tokenizer, text_encoder
from electra_scale.cluster.ranks import Ranks
from electra_scale.data.heldout_text import UnreadableText, heldout_documents, training_documents
from electra_scale.data.loader import Loader
from electra_scale.data.pairs import KINDS, make_pairs, share_preferred
from electra_scale.data.rows import PADDING, SpecialTokens
from electra_scale.data.store import Store
from electra_scale.model.attention.layout import Layout
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.replaced_tokens import ReplacedTokens

_SEED = 0
"""Of the pairs of every run, so that runs are compared on the same ones."""


@dataclass(frozen=True)
class PairRows:
    """Pairs as the discriminator reads them.

    ``rows`` are token ids with [CLS] and [SEP], each different row once, the longest first; ``pairs`` has for each
    kind the numbers of the rows of the sentence and of its copy.
    """

    rows: list[list[int]]
    pairs: dict[str, list[tuple[int, int]]]


class HeldoutPairs:
    """The pairs of a run, made when they are first scored, and the same for every run on a store.

    Args:
        loader: of held-out rows; its store's text is read on the main rank, once.
        most: pairs of each kind.
        rows_at_once: rows that go through the discriminator together. It must not depend on the number of ranks, so
            that the scores don't either.
        log: gets a line if no pairs can be made.
    """

    def __init__(self, loader: Loader, most: int, rows_at_once: int, ranks: Ranks, log: Callable[[str], None]) -> None:
        self.loader = loader
        self.most = most
        self.rows_at_once = rows_at_once
        self.ranks = ranks
        self.log = log
        self._made: PairRows | None = None

    def measure(self, module: PretrainModule, poll: Callable[[], None] = lambda: None) -> dict[str, float]:
        """``eval/pairs_swapped`` and ``eval/pairs_replaced``, on every rank; nothing for a kind without pairs.

        Every rank must call it. ``poll`` is called before each batch, as often on every rank, and may raise; so may
        reading the store.
        """
        if not self.most or not isinstance(module.task, ReplacedTokens):
            return {}
        if self._made is None:
            self._made, reason = self.ranks.from_main(self._make)
            if reason:
                self.log(f"no pairs are scored (eval/pairs_swapped, eval/pairs_replaced): {reason}")
        scores = score_rows(module, self._made.rows, self.loader.split.special, self.rows_at_once, self.ranks, poll)
        found = {}
        for kind, pairs in self._made.pairs.items():
            original, changed = ([scores[pair[which]] for pair in pairs] for which in (0, 1))
            if pairs:
                found[f"eval/pairs_{kind}"] = share_preferred(original, changed).value
        return found

    def _make(self) -> tuple[PairRows, str]:
        split = self.loader.split
        try:
            documents = self.loader.budget.retry(lambda: heldout_documents(split.store, seed=_SEED))
            counted = self.loader.budget.retry(lambda: list(training_documents(split.store, _SEED)))
        except UnreadableText as error:
            return PairRows([], {}), str(error)
        made = pair_rows(documents, counted, split.store, split.special, self.most, split.config.sequence_length)
        if made.rows:
            return made, ""
        return made, (
            f"the held-out text of {split.store.url} has no sentence that fits into {split.config.sequence_length} "
            "tokens and can be changed"
        )


def pair_rows(
    documents: list[str], counted: list[str], store: Store, special: SpecialTokens, most: int, longest: int
) -> PairRows:
    """The first ``most`` pairs of each kind whose rows have at most ``longest`` tokens.

    Words are counted in ``documents`` and in ``counted``.
    """
    encoder = text_encoder(load_tokenizer(store.tokenizer_dir.parent))
    numbers: dict[tuple[int, ...], int] = {}
    chosen: dict[str, list[tuple[int, int]]] = {kind: [] for kind in KINDS}
    # Some pairs are too long, so a few more are made.
    for pair in make_pairs(documents, _SEED, 2 * most, counted):
        if len(chosen[pair.kind]) == most:
            continue
        texts = (pair.original, pair.changed)
        rows = [(special.cls, *encoder.encode(text, add_special_tokens=False).ids, special.sep) for text in texts]
        if max(map(len, rows)) <= longest:
            one, other = (numbers.setdefault(row, len(numbers)) for row in rows)
            chosen[pair.kind].append((one, other))
    # Rows of like length lie side by side, so that little is padded.
    order = sorted(numbers, key=lambda row: (-len(row), numbers[row]))
    place = {numbers[row]: index for index, row in enumerate(order)}
    pairs = {kind: [(place[one], place[other]) for one, other in found] for kind, found in chosen.items()}
    return PairRows([list(row) for row in order], pairs)


@torch.no_grad()
def score_rows(
    module: PretrainModule,
    rows: list[list[int]],
    special: SpecialTokens,
    rows_at_once: int,
    ranks: Ranks,
    poll: Callable[[], None] = lambda: None,
) -> list[float]:
    """The summed log-probability of "original" over each row's tokens without [CLS] and [SEP], on every rank.

    Batches, which the ranks share, have the same rows on any number of ranks. Mode, weights and random states are left
    as they are.
    """
    starts = range(0, len(rows), rows_at_once)
    own: dict[int, list[float]] = {}
    was_training = module.training
    module.eval()
    try:
        for turn in range(-(-len(starts) // ranks.size)):
            poll()
            number = turn * ranks.size + ranks.rank
            if number < len(starts):
                batch = rows[starts[number] : starts[number] + rows_at_once]
                own[number] = _scores(module, batch, special, ranks.device)
    finally:
        module.train(was_training)
    together = {number: scores for of_rank in ranks.gather(own) for number, scores in of_rank.items()}
    return [score for number in sorted(together) for score in together[number]]


def _scores(module: PretrainModule, rows: list[list[int]], special: SpecialTokens, device: torch.device) -> list[float]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [special.pad] * (width - len(row)) for row in rows])
    segment = torch.full_like(ids, PADDING)
    for index, row in enumerate(rows):
        segment[index, : len(row)] = 0
    own = (segment == 0) & (ids != special.cls) & (ids != special.sep)
    layout = Layout.of(segment).to(device)
    hidden = module.electra.discriminator_hidden(ids.to(device), layout).last
    logits: Tensor = module.electra.discriminator_head(hidden).double()
    found: list[float] = (logsigmoid(-logits) * own.to(device)).sum(1).tolist()
    return found
