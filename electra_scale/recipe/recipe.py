"""The recipe: everything that defines a run, as typed settings read from YAML and the command line."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from data_pipeline.errors import UserError
from electra_scale.recipe.batch import BatchConfig
from electra_scale.recipe.checkpoint import CheckpointConfig
from electra_scale.recipe.data import DataConfig
from electra_scale.recipe.logging import LoggingConfig
from electra_scale.recipe.model import ModelSection
from electra_scale.recipe.objective import ObjectiveConfig
from electra_scale.recipe.optimizer import OptimizerConfig
from electra_scale.recipe.schedule import GeneratorWarmupConfig, ScheduleConfig


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
        found += self.checkpoint.problems(self.run_dir)
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
