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
    """DeepSpeed JSON: ZeRO, precision, communication, optimizer implementation."""

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
        return ModelConfig(vocab_size=vocab_size, architecture=self.architecture, sharing=self.sharing, **shared)

    def problems(self) -> list[str]:
        """Impossible settings, one sentence each: each section's own, then what spans sections."""
        found: list[str] = []
        if not is_utf8(self.run_dir):
            found.append(f"run_dir {self.run_dir!a} is not a name in UTF-8; choose another folder")
        sections = ("data", "model", *SEAMS, "batch", "schedule", "generator_warmup", "logging")
        for name in sections:
            found += getattr(self, name).problems()
        found += self.checkpoint.problems(self.run_dir)
        if self.data.sequence_length > self.model.max_positions:
            found.append(
                f"data.sequence_length is {self.data.sequence_length}, model.max_positions only "
                f"{self.model.max_positions}; raise the latter or shorten the samples"
            )
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
