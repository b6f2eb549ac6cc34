"""``python -m electra_scale.pretrain``: what every launcher starts, once per device."""

from __future__ import annotations

import os
import sys

from data_pipeline.errors import UserError
from electra_scale.config import parse_recipe, recipe_parser
from electra_scale.data.prefetch import DataError


def main(arguments: list[str] | None = None) -> int:
    """Train a recipe. Exit code 2, with one line on stderr, for what the user can put right."""
    parser = recipe_parser("electra_scale.pretrain")
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="never",
        help="auto: go on from the run folder's newest checkpoint, if there is one; never: refuse a folder with a run",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="given by the deepspeed launcher; not read")
    try:
        recipe, options = parse_recipe(parser, sys.argv[1:] if arguments is None else arguments)
        # Imported late: --help and a bad recipe need neither torch nor DeepSpeed.
        from electra_scale.train.engine import join_world, leave_world
        from electra_scale.train.loop import train

        world = join_world()
        try:
            train(recipe, options.resume == "auto", world)
        finally:
            leave_world()
    except UserError as error:
        rank = os.environ.get("RANK", "0")
        # Other errors come to every rank alike.
        if rank == "0" or isinstance(error, DataError):
            where = "" if rank == "0" else f"rank {rank}: "
            print(f"electra-scale: error: {where}{error}", file=sys.stderr, flush=True)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
