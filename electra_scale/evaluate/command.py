"""``electra-scale evaluate``: probes of models without fine-tuning, side by side."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import UserError
from data_pipeline.progress import log

if TYPE_CHECKING:
    from electra_scale.evaluate.scores import Evaluation
    from electra_scale.export.named_model import NamedModel

PROBES = ("pairs", "minimal_pairs", "linear", "replaced_tokens", "masked_tokens")
_TEXT = "a store (its held-out text), a .jsonl file (column text) or a text file"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "--model",
        nargs="+",
        required=True,
        metavar="NAME",
        help="run, export, folder of transformers or hub id; random: before one draws its weights anew",
    )
    parser.add_argument("--step", type=int, help="checkpoint of a run; the newest if not given")
    parser.add_argument("--out", type=Path, help="folder for the JSON files (default: RUN/evaluation)")
    parser.add_argument("--seed", type=int, default=0, help="of pairs, masks, draws and random weights (default 0)")
    pairs = parser.add_argument_group("pairs of sentences")
    pairs.add_argument(
        "--pairs",
        action="store_true",
        help="held-out sentences against copies with two words swapped, and with one replaced",
    )
    pairs.add_argument("--store", help="store whose held-out text is read (default: that of the first run)")
    pairs.add_argument("--count", type=int, default=1000, help="pairs of each kind at most (default 1000)")
    pairs.add_argument("--minimal-pairs", type=Path, metavar="FOLDER", help="pairs in BLiMP's format, one .jsonl each")
    pairs.add_argument(
        "--pairs-by",
        nargs="+",
        choices=["discriminator", "generator"],
        default=["discriminator"],
        help="what scores a sentence: the discriminator in one pass (default), the generator by pseudo-log-likelihood",
    )
    linear = parser.add_argument_group("linear probe")
    linear.add_argument(
        "--linear",
        nargs="+",
        metavar="TASK",
        help="folder with train and validation or test (.jsonl, .jsonl.gz), folder of such, or TRAIN.jsonl,TEST.jsonl",
    )
    linear.add_argument(
        "--layer", type=int, default=-1, help="hidden states of it; 0 embeddings, -1 the last (default)"
    )
    linear.add_argument("--pool", choices=["mean", "cls"], default="mean", help="mean of tokens (default), or [CLS]")
    tokens = parser.add_argument_group("tokens")
    tokens.add_argument("--masked-tokens", metavar="TEXT", help=f"predict masked tokens of {_TEXT}")
    tokens.add_argument("--replaced-tokens", metavar="TEXT", help="detect tokens of it that --generator has replaced")
    tokens.add_argument("--generator", metavar="NAME", help="model that replaces tokens, named as --model is")
    tokens.add_argument("--passages", type=int, default=512, help="pieces of the text at most (default 512)")
    tokens.add_argument("--length", type=int, default=128, help="tokens of a piece at most (default 128)")
    tokens.add_argument("--mask-share", type=float, default=0.15, help="share of tokens that is masked (default 0.15)")


def run_evaluate(options: argparse.Namespace) -> int:
    """Evaluate each model by each probe that is asked for, print a table and write a file for each.

    Raises UserError for whatever stands in the way; files of what was evaluated before it are there.
    """
    _check(options)
    # transformers takes seconds to import, and options that make no sense should not wait for it.
    from transformers.utils import logging

    from electra_scale.evaluate.scores import file_name, table
    from electra_scale.export.named_model import named_model

    logging.disable_progress_bar()
    probes = list(_probes(options))
    found: list[Evaluation] = []
    written: list[Path] = []
    for name in options.model:
        out = options.out
        if out is not None and len(options.model) > 1:
            out = out / file_name(name)
        with named_model(name, options.step if _is_run(name) else None, options.seed) as model:
            if model.note is not None:
                log(model.note)
            for probe in probes:
                found.append(probe(model))
                written.append(found[-1].write(out))
    print(table(found))
    for path in written:
        print(f"written: {path}")
    return 0


def _check(options: argparse.Namespace) -> None:
    if not any(getattr(options, name) for name in PROBES):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in PROBES)
        raise UserError(f"nothing to evaluate; give at least one of {names}")
    if options.replaced_tokens and not options.generator:
        raise UserError(
            "--replaced-tokens needs --generator NAME, the model whose draws replace tokens, so that models are "
            "compared on the same ones"
        )
    for name, needs, given in (
        ("--generator", "--replaced-tokens", options.generator and not options.replaced_tokens),
        ("--store", "--pairs", options.store and not options.pairs),
    ):
        if given:
            raise UserError(f"{name} is given without {needs}, which alone reads it; give both or neither")
    if options.count < 1:
        raise UserError(f"--count is {options.count}; it must be at least 1")
    twice = [name for name in options.model if options.model.count(name) > 1]
    if twice:
        raise UserError(f"--model names {twice[0]} twice; name each model once")
    if options.step is not None and not any(map(_is_run, options.model)):
        raise UserError(f"--step is {options.step}, but no --model is a run folder; leave it out")


def _probes(options: argparse.Namespace) -> Iterator[Callable[[NamedModel], Evaluation]]:
    """What is asked for, with its data read, so that bad data is refused before any model is opened."""
    from electra_scale.data.store import Store
    from electra_scale.evaluate.linear import evaluate_linear, read_tasks
    from electra_scale.evaluate.minimal_pairs import evaluate_minimal_pairs, read_minimal_pairs
    from electra_scale.evaluate.pairs import evaluate_pairs, pairs_of
    from electra_scale.evaluate.passages import Masking, read_documents
    from electra_scale.evaluate.tokens import evaluate_masked_tokens, evaluate_replaced_tokens
    from electra_scale.export.named_model import named_model

    seed, networks = options.seed, list(dict.fromkeys(options.pairs_by))
    masking = Masking(options.passages, options.length, options.mask_share, seed)
    masking.check()
    if options.pairs:
        store = Store(options.store or _store_of(options.model))
        pairs = pairs_of(store, options.count, seed)
        for by in networks:
            yield partial(evaluate_pairs, by=by, pairs=pairs, store=store.url, seed=seed)
    if options.minimal_pairs:
        minimal = read_minimal_pairs(options.minimal_pairs)
        for by in networks:
            yield partial(evaluate_minimal_pairs, by=by, pairs=minimal, folder=options.minimal_pairs)
    if options.linear:
        tasks = read_tasks(options.linear, seed)
        yield partial(evaluate_linear, tasks=tasks, layer=options.layer, pool=options.pool)
    if options.masked_tokens:
        masked = read_documents(options.masked_tokens)
        yield partial(evaluate_masked_tokens, documents=masked, text=options.masked_tokens, masking=masking)
    if options.replaced_tokens:
        documents = read_documents(options.replaced_tokens)

        def replaced(model: NamedModel) -> Evaluation:
            with named_model(options.generator, None, seed) as generator:
                return evaluate_replaced_tokens(model, generator, documents, options.replaced_tokens, masking)

        yield replaced


def _is_run(name: str) -> bool:
    # As electra_scale/export/named_model.py tells; it imports transformers, and this is asked before.
    folder = Path(name.removeprefix("random:"))
    return (folder / "recipe.yaml").is_file() and (folder / "checkpoints").is_dir()


def _store_of(names: list[str]) -> str:
    from electra_scale.recipe.parse import recipe_of_run

    for name in filter(_is_run, names):
        return str(recipe_of_run(Path(name.removeprefix("random:")) / "recipe.yaml").data.store)
    raise UserError("no --model is a run folder, whose store could be read; name a store with --store")
