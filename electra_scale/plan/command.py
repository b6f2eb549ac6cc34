"""The command ``electra-scale plan``: a recipe, a store and a cluster go in, printed figures come out."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from electra_scale.plan.plan import Cluster, Tokens, plan
from electra_scale.plan.text import plan_text
from electra_scale.recipe.deepspeed_json import chosen_json, read_deepspeed_json
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe

_FEWEST_TOKENS = 6
"""The special tokens and one ordinary token."""


def print_plan(options: Namespace, recipe_arguments: list[str]) -> None:
    """Print the plan of a recipe, or write it as JSON to ``options.json``; raises UserError for impossible options."""
    recipe, _ = parse_recipe(recipe_parser("electra-scale plan"), recipe_arguments)
    cluster = Cluster(options.nodes, options.gpus_per_node, options.gpu, options.link)
    # All devices that it knows have it.
    deepspeed_json = read_deepspeed_json(chosen_json(recipe.deepspeed, bf16=True))
    found = plan(recipe, deepspeed_json, _tokens(options, recipe), cluster, options.efficiency, options.price)
    if options.json is None:
        print(plan_text(found))
    elif options.json == Path("-"):
        print(json.dumps(found, indent=1))
    else:
        write_bytes(options.json, json.dumps(found, indent=1).encode() + b"\n")


def _tokens(options: Namespace, recipe: Recipe) -> Tokens:
    if options.store is None:
        if options.vocabulary < _FEWEST_TOKENS:
            raise UserError(f"--vocabulary is {options.vocabulary}; it must be at least {_FEWEST_TOKENS}")
        return Tokens(options.vocabulary, 2.0 if options.vocabulary <= 1 << 16 else 4.0)
    # Imported late: a plan without a store does not need it.
    from electra_scale.data.store import Store

    try:
        manifest = Store(options.store, recipe.data.cache).manifest
    except UserError as error:
        raise UserError(f"{error}; without a store, give --vocabulary instead of --store") from error
    shards = manifest.split("train")
    tokens = sum(shard.tokens for shard in shards)
    return Tokens(manifest.tokenizer.vocab_size, sum(shard.bytes for shard in shards) / max(1, tokens), tokens)
