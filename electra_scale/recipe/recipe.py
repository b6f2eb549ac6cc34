"""The recipe: everything that defines a run, as typed settings read from YAML and the command line."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from data_pipeline.places.names import is_utf8
from electra_scale.recipe.batch import BatchConfig
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.recipe.corruption import GeneratorSettings
from electra_scale.recipe.data import DataConfig
from electra_scale.recipe.kinds import SEAMS
from electra_scale.recipe.logging import LoggingConfig
from electra_scale.recipe.model import BertSettings, ModelConfig, ModelSection, NetworkSettings, TiedSettings
from electra_scale.recipe.optimizer import AdamWSettings
from electra_scale.recipe.schedule import GeneratorWarmupConfig, ScheduleConfig
from electra_scale.recipe.task import ReplacedTokensSettings


@dataclass
class Recipe:
    """A run. The sections that choose a method by ``kind`` (kinds.py) hold the settings of the kind chosen."""

    run_dir: str = "runs/run"
    """Run folder: checkpoints, metrics, TensorBoard, the resolved recipe."""

    deepspeed: str = "ds_configs/zero2.json"
    """DeepSpeed JSON: ZeRO, precision, communication, optimizer implementation. ``auto`` takes the shipped one with
    bf16 where the device has instructions for it, else the one with fp32; the run folder's recipe names which."""

    seed: int = 0
    """Seed of the initial weights, the order, the masks and the draws."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelSection = field(default_factory=ModelSection)
    architecture: Any = field(default_factory=BertSettings)
    sharing: Any = field(default_factory=TiedSettings)
    corruption: Any = field(default_factory=GeneratorSettings)
    task: Any = field(default_factory=ReplacedTokensSettings)
    optimizer: Any = field(default_factory=AdamWSettings)
    batch: BatchConfig = field(default_factory=BatchConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    generator_warmup: GeneratorWarmupConfig = field(default_factory=GeneratorWarmupConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of both phases."""
        return self.generator_warmup.steps + self.schedule.steps

    def networks(self, vocab_size: int) -> ModelConfig:
        """What the networks are built from, for a vocabulary."""
        shared = {part.name: getattr(self.model, part.name) for part in fields(NetworkSettings)}
        if not self.task.detects:
            # The encoder that is kept is what learns.
            shared["generator"] = self.model.discriminator
        return ModelConfig(vocab_size=vocab_size, architecture=self.architecture, sharing=self.sharing, **shared)

    def problems(self) -> list[str]:
        """Impossible settings, one sentence each: each section's own, then what spans sections."""
        found: list[str] = []
        if not is_utf8(self.run_dir):
            found.append(f"run_dir {self.run_dir!a} is not a name in UTF-8; choose another folder")
        sections = ("data", "model", *SEAMS, "batch", "schedule", "generator_warmup", "logging")
        for name in sections:
            found += getattr(self, name).problems()
        found += self.architecture.misfits(self.model)
        found += self.checkpoint.problems(self.run_dir)
        if self.data.sequence_length > self.model.max_positions:
            found.append(
                f"data.sequence_length is {self.data.sequence_length}, model.max_positions only "
                f"{self.model.max_positions}; raise the latter or shorten the samples"
            )
        if self.task.detects and self.schedule.steps == 0 and self.generator_warmup.steps == 0:
            found.append(
                "schedule.steps is 0, and so is generator_warmup.steps: nothing is trained; give one of them steps"
            )
        if not self.task.detects:
            found += self._problems_of_masked_prediction_alone()
        never = self.task.detects and self.generator_warmup.steps == 0 and self.model.init_from is None
        if self.corruption.uses_generator and self.optimizer.generator_rate == 0 and never:
            found.append(
                "optimizer.generator_rate is 0, which leaves the generator as it is, but it would be at its random "
                "start: set generator_warmup.steps or model.init_from, or a rate above 0"
            )
        if self.model.position_init == "neighbours":
            found += self._problems_of_neighbours()
        if self.generator_warmup.discriminator_from_generator:
            found += self._problems_of_the_discriminators_start()
        if not self.corruption.uses_generator:
            kind = self.corruption.kind
            if self.generator_warmup.steps:
                found.append(
                    f"generator_warmup.steps is {self.generator_warmup.steps}, but corruption.kind {kind} has no "
                    "generator to warm up; set generator_warmup.steps to 0"
                )
            if self.logging.probe_every:
                found.append(
                    f"logging.probe_every is {self.logging.probe_every}, but corruption.kind {kind} has no generator "
                    "whose draws a probe could repeat; set logging.probe_every to 0"
                )
            if self.model.unigram_bias:
                found.append(f"model.unigram_bias is set, but corruption.kind {kind} has no generator; set it to false")
        return found

    def _problems_of_masked_prediction_alone(self) -> list[str]:
        """What a run of one network cannot have."""
        kind, found = self.task.kind, []
        if not self.corruption.uses_generator:
            found.append(
                f"task.kind is {kind}, which predicts masked tokens, but corruption.kind {self.corruption.kind} masks "
                "none; set corruption.kind to generator"
            )
        if self.generator_warmup.steps:
            found.append(
                f"task.kind is {kind}, which is masked prediction from the first step to the last, but "
                f"generator_warmup.steps is {self.generator_warmup.steps}; set it to 0"
            )
        elif self.schedule.steps == 0:
            found.append(f"task.kind is {kind}, but schedule.steps is 0, so nothing is trained; give it steps")
        return found

    def _problems_of_neighbours(self) -> list[str]:
        """Encoders whose first layer does not read the embeddings as they are."""
        return [
            f"model.position_init is neighbours, whose heads read the embeddings as they are, but model.{name}.hidden "
            f"is {size.hidden} and model.embedding {self.model.embedding}; make them equal, or choose another start"
            for name, size in (("discriminator", self.model.discriminator), ("generator", self.model.generator))
            if size.hidden != self.model.embedding
            and (name == "discriminator" or (self.corruption.uses_generator and self.task.detects))
        ]

    def _problems_of_the_discriminators_start(self) -> list[str]:
        """What keeps the discriminator from starting with the generator's weights."""
        key = "generator_warmup.discriminator_from_generator"
        if not self.corruption.uses_generator:
            kind = self.corruption.kind
            return [f"{key} is set, but corruption.kind {kind} has no generator to start from; set it to false"]
        found = []
        if self.generator_warmup.steps == 0:
            found.append(
                f"{key} is set, but generator_warmup.steps is 0, so there is no warmed-up generator; give that phase "
                f"steps, or set {key} to false"
            )
        ours, theirs = self.model.discriminator, self.model.generator
        if ours != theirs:
            found.append(
                f"{key} needs two encoders of one size; model.discriminator has {ours}, model.generator {theirs}; "
                f"make them equal, or set {key} to false"
            )
        return found
