"""The recipe: everything that defines a run, as typed settings read from YAML and the command line."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from data_pipeline.errors import UserError
from electra_scale.data.config import CacheConfig as CacheConfig
from electra_scale.data.config import DataConfig as DataConfig
from electra_scale.model.config import EncoderSize, ModelConfig
from electra_scale.replacement.config import ObjectiveConfig


@dataclass
class ModelSection:
    """Sizes of the two encoders; the vocabulary comes from the store."""

    embedding: int = 128
    """Width E of the shared embeddings."""

    discriminator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 256, 1024, 4))
    """The encoder that is kept in the end."""

    generator: EncoderSize = field(default_factory=lambda: EncoderSize(12, 64, 256, 1))
    """The encoder that proposes replacements."""

    max_positions: int = 512
    """Longest sequence that the position embeddings allow."""

    dropout: float = 0.1
    """Dropout of hidden states in both networks; 0 makes training exact across world sizes."""

    attention_dropout: float = 0.1
    """Dropout of attention probabilities in both networks."""

    init_std: float = 0.02
    """Standard deviation of the truncated normal that weights start from."""

    init: Literal["bert", "fan_in"] = "bert"
    """``bert``: every matrix has that deviation; ``fan_in``: dense layers have 1/sqrt(inputs), better when narrow."""

    position_init: Literal["normal", "sinusoidal"] = "normal"
    """What the learned position embeddings start from."""

    init_from: str | None = None
    """Exported checkpoint (folder with ``discriminator`` and ``generator``) to start from."""

    cooccurrence_embeddings: bool = False
    """Start word embeddings from the corpus' co-occurrence counts: for budgets of minutes (docs/experiments.md)."""

    unigram_bias: bool = False
    """Start the generator's output bias at the log token frequencies."""

    def resolve(self, vocab_size: int) -> ModelConfig:
        """The model's own configuration for a vocabulary."""
        return ModelConfig(
            vocab_size=vocab_size,
            embedding=self.embedding,
            discriminator=self.discriminator,
            generator=self.generator,
            max_positions=self.max_positions,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
            init_std=self.init_std,
            init=self.init,
            position_init=self.position_init,
        )


@dataclass
class BatchConfig:
    """Batch size; micro-batch and accumulation follow from the number of ranks."""

    global_batch: int = 128
    """Samples of an optimizer step over all ranks."""

    most_per_device: int = 64
    """Largest micro-batch that a device is given; the rest is accumulated."""


@dataclass
class OptimizerConfig:
    """AdamW, as the DeepSpeed JSON implements it."""

    learning_rate: float = 5e-4
    """Peak rate."""

    generator_rate: float = 1.0
    """Rate of the generator's layers and head in the joint phase, as a multiple; the embeddings have the full rate."""

    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the first and second moment."""

    eps: float = 1e-6
    """Added to the root of the second moment."""

    weight_decay: float = 0.01
    """Decay of weights; LayerNorm and biases have none."""

    clip: float = 1.0
    """Largest norm of the global gradient."""

    most_skipped: int = 20
    """Steps in a row that may be skipped, since a loss or a gradient is not finite, before the run ends."""


@dataclass
class ScheduleConfig:
    """The joint phase: linear warm-up times linear decay to zero."""

    steps: int = 1000
    """Optimizer steps of the joint phase."""

    warmup_steps: int = 100
    """Steps over which the rate rises."""


@dataclass
class GeneratorWarmupConfig:
    """A phase in which the generator learns alone, before the joint phase; for small budgets, off with 0 steps."""

    steps: int = 0
    """Optimizer steps; they count before the joint phase's."""

    warmup_steps: int = 100
    """Steps over which the rate rises; it then falls to a tenth."""

    learning_rate: float = 1e-3
    """Peak rate."""

    mask_share: float = 0.4
    """Share of tokens that the generator predicts; more than in the joint phase gives more signal a step."""


@dataclass
class CheckpointConfig:
    """When to save and what to keep."""

    every: int = 500
    """Steps between checkpoints; there is one at the end in any case."""

    keep: int = 2
    """Checkpoints kept; older ones are removed."""

    stop_signal: Literal["TERM", "USR1", "USR2"] = "TERM"
    """A signal to a rank that asks the run to save and stop, besides SIGTERM, which always does."""


@dataclass
class LoggingConfig:
    """What is written while a run goes on."""

    every: int = 10
    """Steps between rows of metrics.jsonl and TensorBoard."""

    evaluate_every: int = 100
    """Steps between evaluations on held-out text; there is one at the end of each phase in any case."""

    evaluate_samples: int = 256
    """Held-out samples of an evaluation."""

    probe_every: int = 0
    """Joint steps between variance probes on held-out text (docs/variance.md), and one at the end; 0 = none."""

    probe_samples: int = 32
    """Held-out samples of a probe. Its cost grows with samples x draws."""

    probe_draws: int = 32
    """Times that a probe draws the replacements of each sample, from p and from q."""

    peak_tflops: float | None = None
    """Peak of a device in TFLOP/s for speed/mfu; unset, it is looked up or measured."""

    stuck_minutes: float = 10.0
    """Time without progress after which a rank that waits for others names those that are missing and ends; 0 = never.
    Start-up, saves and a store that does not answer are given longer."""


@dataclass
class Recipe:
    """A run."""

    run_dir: str = "runs/run"
    """Run folder: checkpoints, metrics, TensorBoard, the resolved recipe."""

    deepspeed: str = "ds_configs/zero2.json"
    """DeepSpeed JSON: ZeRO, precision, communication, optimizer implementation."""

    seed: int = 0
    """Seed of the initial weights, the order, the masks and the draws."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSection = field(default_factory=ModelSection)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    generator_warmup: GeneratorWarmupConfig = field(default_factory=GeneratorWarmupConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of both phases."""
        return self.generator_warmup.steps + self.schedule.steps

    def problems(self) -> list[str]:
        """Impossible settings, one sentence each."""
        found = self.objective.problems()
        for name, value, least in (
            ("data.sequence_length", self.data.sequence_length, 8),
            ("data.streams", self.data.streams, 1),
            ("data.shuffle_window", self.data.shuffle_window, 1),
            ("data.packing_window", self.data.packing_window, 1),
            ("data.prefetch_threads", self.data.prefetch_threads, 0),
            ("data.prefetch_shards", self.data.prefetch_shards, 0),
            ("batch.global_batch", self.batch.global_batch, 1),
            ("batch.most_per_device", self.batch.most_per_device, 1),
            ("schedule.steps", self.schedule.steps, 1),
            ("schedule.warmup_steps", self.schedule.warmup_steps, 0),
            ("generator_warmup.steps", self.generator_warmup.steps, 0),
            ("generator_warmup.warmup_steps", self.generator_warmup.warmup_steps, 0),
            ("checkpoint.every", self.checkpoint.every, 1),
            ("checkpoint.keep", self.checkpoint.keep, 1),
            ("logging.every", self.logging.every, 1),
            ("logging.evaluate_every", self.logging.evaluate_every, 1),
            ("logging.evaluate_samples", self.logging.evaluate_samples, 1),
            ("logging.probe_every", self.logging.probe_every, 0),
            ("logging.probe_samples", self.logging.probe_samples, 1),
            ("logging.probe_draws", self.logging.probe_draws, 2),
            ("optimizer.most_skipped", self.optimizer.most_skipped, 0),
        ):
            if value < least:
                found.append(f"{name} is {value}; it must be at least {least}")
        for name, share in (
            ("data.mask_share", self.data.mask_share),
            ("generator_warmup.mask_share", self.generator_warmup.mask_share),
        ):
            if not 0 < share < 1:
                found.append(f"{name} is {share}; it must lie between 0 and 1")
        # Written so that NaN, which compares false, is refused too.
        if not self.data.give_up_minutes >= 0:
            found.append(f"data.give_up_minutes is {self.data.give_up_minutes}; it must be 0 or more")
        if not 0 <= self.logging.stuck_minutes < math.inf:
            found.append(f"logging.stuck_minutes is {self.logging.stuck_minutes}; it must be a number of 0 or more")
        if not 0 < self.data.cache.limit_gb < math.inf:
            found.append(f"data.cache.limit_gb is {self.data.cache.limit_gb}; it must be a number above 0")
        for label, weight in self.data.mixture.items():
            if not 0 < weight < math.inf:
                found.append(f"data.mixture.{label} is {weight}; a weight must be a number above 0")
        if not 0 <= self.data.mask_token_share <= 1:
            found.append(f"data.mask_token_share is {self.data.mask_token_share}; it must lie between 0 and 1")
        if self.data.sequence_length > self.model.max_positions:
            found.append(
                f"data.sequence_length is {self.data.sequence_length}, model.max_positions only "
                f"{self.model.max_positions}; raise the latter or shorten the samples"
            )
        if not (self.optimizer.learning_rate > 0 and self.generator_warmup.learning_rate > 0):
            found.append("optimizer.learning_rate and generator_warmup.learning_rate must be above 0")
        if self.optimizer.generator_rate <= 0:
            found.append(f"optimizer.generator_rate is {self.optimizer.generator_rate}; it must be above 0")
        if not all(0 <= beta < 1 for beta in self.optimizer.betas):
            found.append(f"optimizer.betas are {self.optimizer.betas}; each must be at least 0 and below 1")
        if not self.optimizer.eps > 0:
            found.append(f"optimizer.eps is {self.optimizer.eps}; it must be above 0")
        if not (self.optimizer.weight_decay >= 0 and self.optimizer.clip >= 0):
            found.append("optimizer.weight_decay and optimizer.clip must be 0 or more")
        if self.logging.peak_tflops is not None and not self.logging.peak_tflops > 0:
            found.append(f"logging.peak_tflops is {self.logging.peak_tflops}; it must be above 0, or unset")
        try:
            # The model checks its own sizes and shares; the vocabulary is not known yet.
            self.model.resolve(vocab_size=1)
        except UserError as error:
            found.append(str(error))
        return found


def recipe_parser(program: str) -> ArgumentParser:
    """Parser of ``--config FILE`` and ``--section.key value``; ``--help`` explains every setting.

    Of several files and options, each overrides the keys that it names, in the order of the command line.
    """
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog=program, exit_on_error=False, allow_abbrev=False, description="Pre-train an ELECTRA encoder."
    )
    parser.add_argument(
        "--config", action="config", help="recipe (YAML); may be given several times, later keys override earlier ones"
    )
    parser.add_class_arguments(Recipe, None)
    return parser


def parse_recipe(parser: ArgumentParser, arguments: list[str]) -> tuple[Recipe, Namespace]:
    """The recipe that the arguments describe, and all parsed options.

    Raises UserError, in one line, for a missing file, an unknown key, a wrong type or an impossible setting.
    """
    for path in _config_paths(arguments):
        check_keys(path)
    try:
        parsed = parser.parse_args(arguments)
        options = parser.instantiate(parsed)
    except ArgumentError as error:
        raise UserError(_one_line(str(error))) from error
    except ValueError as error:
        raise UserError(_one_line(str(error))) from error
    names = [part.name for part in dataclasses.fields(Recipe)]
    recipe = Recipe(**{name: options[name] for name in names})
    problems = recipe.problems()
    if problems:
        raise UserError("; ".join(problems))
    return recipe, options


def check_keys(path: Path) -> None:
    """Refuse a recipe file that can't be read or has a key that no setting has; names the nearest one."""
    if not path.is_file():
        raise UserError(f"recipe {path} does not exist; the shipped ones are in recipes/")
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not valid YAML: {_one_line(str(error))}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} must be a mapping of settings, it is {type(content).__name__}")
    _check_mapping(path, content, Recipe, "")


def _check_mapping(path: Path, content: dict[str, Any], of: type, prefix: str) -> None:
    hints = typing.get_type_hints(of)
    known = {part.name: hints[part.name] for part in dataclasses.fields(of)}
    for key, value in content.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            advice = f"did you mean {prefix}{near[0]}?" if near else f"known here: {', '.join(known)}"
            raise UserError(f"recipe {path}: unknown key {prefix}{key}; {advice}")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise UserError(f"recipe {path}: {prefix}{key} must be a mapping of settings, it is {value!r}")
            _check_mapping(path, value, typing.cast(type, known[key]), f"{prefix}{key}.")


def _config_paths(arguments: list[str]) -> list[Path]:
    paths = []
    for index, argument in enumerate(arguments):
        if argument == "--config" and index + 1 < len(arguments):
            paths.append(Path(arguments[index + 1]))
        elif argument.startswith("--config="):
            paths.append(Path(argument.removeprefix("--config=")))
    return paths


def _one_line(text: str) -> str:
    return " ".join(text.split())


def batch_split(global_batch: int, ranks: int, most_per_device: int) -> tuple[int, int]:
    """Micro-batch and accumulation steps of each rank.

    The largest micro-batch within the limit that divides the rank's share. Raises UserError, naming the nearest batch
    sizes that work, if the ranks can't share the global batch equally.
    """
    share, rest = divmod(global_batch, ranks)
    if rest or share == 0:
        below = max(1, share) * ranks
        above = (share + 1) * ranks
        nearest = str(below) if share == 0 else f"{below} or {above}"
        raise UserError(
            f"batch.global_batch is {global_batch}, which {ranks} ranks cannot share equally; "
            f"nearest that work: {nearest}, or use {_nearest_divisors(global_batch, ranks)} ranks"
        )
    micro = max(size for size in range(1, min(share, most_per_device) + 1) if share % size == 0)
    return micro, share // micro


def _nearest_divisors(number: int, around: int) -> str:
    divisors = [size for size in range(1, number + 1) if number % size == 0]
    below = [size for size in divisors if size < around]
    above = [size for size in divisors if size > around]
    return " or ".join(str(size) for size in below[-1:] + above[:1])


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain values, as they are written into the run folder."""
    values = dataclasses.asdict(recipe)
    values["optimizer"]["betas"] = list(recipe.optimizer.betas)
    return values


def recipe_of_run(path: Path) -> Recipe:
    """The resolved recipe that a run wrote into its folder; raises UserError if there is none."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not a run folder: it has no {path.name}")
    recipe, _ = parse_recipe(recipe_parser("recipe"), ["--config", str(path)])
    return recipe
