"""What a start of training takes beside its recipe."""

from __future__ import annotations

from electra_scale.recipe.parse import RecipeParser, recipe_parser


def pretrain_parser() -> RecipeParser:
    """Parser of a recipe and of what only a start of it has."""
    parser = recipe_parser("electra_scale.pretrain")
    parser.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="never",
        help="auto: go on from the run folder's newest checkpoint, if there is one; never: refuse a folder with a run",
    )
    parser.add_argument(
        "--stop_file",
        type=str,
        help="the run saves and ends with code 0 soon after this file appears; its text is logged as the reason",
    )
    parser.add_argument(
        "--time_slice_minutes",
        type=float,
        help="time that the job is given; a run that could never save in it is refused: with --stop_file start-up, a "
        "step and a save must fit, without it start-up, checkpoint.every steps and a save",
    )
    parser.add_argument("--local_rank", type=int, default=0, help="given by the deepspeed launcher; not read")
    return parser
