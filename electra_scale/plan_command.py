"""The command ``electra-scale plan``: from a recipe and a store to printed figures."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

from data_pipeline.atomic import write_bytes
from electra_scale.config import parse_recipe, recipe_parser
from electra_scale.data.store import Store
from electra_scale.plan import Cluster, plan, plan_text
from electra_scale.train.engine import read_deepspeed_json


def print_plan(options: Namespace, recipe_arguments: list[str]) -> None:
    """Print the plan of a recipe, or write it as JSON to ``options.json``; raises UserError for what can't be."""
    recipe, _ = parse_recipe(recipe_parser("electra-scale plan"), recipe_arguments)
    cluster = Cluster(options.nodes, options.gpus_per_node, options.gpu)
    vocabulary, bytes_per_id = options.vocabulary, 2.0 if options.vocabulary <= 1 << 16 else 4.0
    if options.store is not None:
        manifest = Store(options.store, recipe.data.cache).manifest
        shards = manifest.split("train")
        vocabulary = manifest.tokenizer.vocab_size
        bytes_per_id = sum(shard.bytes for shard in shards) / max(1, sum(shard.tokens for shard in shards))
    found = plan(
        recipe,
        read_deepspeed_json(recipe.deepspeed),
        vocabulary,
        cluster,
        options.efficiency,
        options.price,
        bytes_per_id,
    )
    if options.json is None:
        print(plan_text(found))
    elif options.json == Path("-"):
        print(json.dumps(found, indent=1))
    else:
        write_bytes(options.json, json.dumps(found, indent=1).encode() + b"\n")
