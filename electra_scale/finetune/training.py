"""One seed of a fine-tuning: transformers' Trainer with layer-wise rates, from its last checkpoint if it has one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_linear_schedule_with_warmup,
)

from data_pipeline.errors import UserError
from data_pipeline.places.atomic import write_bytes
from data_pipeline.progress import log, tracking
from electra_scale.finetune.encode import Encoded
from electra_scale.finetune.layerwise import optimizer, rates
from electra_scale.finetune.processes import Processes
from electra_scale.finetune.recipe import BETAS, CLIP, EPSILON, Choices, FineTuningRecipe, micro_batches
from electra_scale.finetune.short_parts import parts, terms
from electra_scale.finetune.tasks.task import Task

_WHOLE = "whole"
"""A file that a checkpoint gets when each rank has written its part of it."""


_LEAST_FREE = 16 << 20
"""Bytes: a disk with less is full as far as checkpoints go."""


class LayerWiseTrainer(Trainer):
    """Trainer with warm-up and linear decay of each group's own rate, and scores from a whole split's outputs."""

    def __init__(self, *, warmup: float, stopped_by: Encoded | None, **settings: Any) -> None:
        super().__init__(**settings)
        self._warmup = warmup
        self._stopped_by = stopped_by
        self._term_weight = 1.0
        self._share: float | None = None

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Linear warm-up over a share of the steps, then linear decay to 0."""
        warmup = int(self._warmup * num_training_steps)
        optimizer = self.optimizer if optimizer is None else optimizer
        self.lr_scheduler = get_linear_schedule_with_warmup(optimizer, warmup, num_training_steps)
        return self.lr_scheduler

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Any], None]:
        """The micro-batches of a step, of whose terms, over all ranks, the loss is to be the mean."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        found = torch.tensor(sum(terms(batch) for batch in batches), device=device)
        if self.args.world_size > 1:
            found = self.accelerator.gather(found).sum()
        self._term_weight = len(batches) * self.args.world_size / max(int(found), 1)
        return batches, None

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of a micro-batch, on a processor in parts; its share of the loss of the step."""
        # Scores of starts and ends are compared over padding too, so what is cut of a question would change its loss.
        shares = parts(inputs) if self.args.device.type == "cpu" and "labels" in inputs else [inputs]
        # The mean over no tagged word is not a number; its gradient is 0.
        shares = [share for share in shares if terms(share)] or shares[:1]
        found = []
        for number, share in enumerate(shares, 1):
            self._share = terms(share) * self._term_weight
            with ExitStack() as open_contexts:
                if number < len(shares):
                    open_contexts.enter_context(self.accelerator.no_sync(model))
                found.append(super().training_step(model, share))
        self._share = None
        return torch.stack(found).sum()

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """In training the loss of a part times its share. Trainer divides by the micro-batches, and ranks average."""
        found: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return found if self._share is None else found * self._share

    def scores(self, part: Encoded) -> dict[str, float]:
        """The metrics of a split; every rank has to call it."""
        features: Any = list(part.features)
        return part.score(self.predict(features).predictions)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The metrics that early stopping looks at, under the names that Trainer expects."""
        assert self._stopped_by is not None
        found = {f"eval_{name}": value for name, value in self.scores(self._stopped_by).items()}
        self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found


class _Progress(TrainerCallback):
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._open = ExitStack()
        self._advance: Callable[[], object] = lambda: None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance = self._open.enter_context(tracking(state.max_steps, state.global_step, self._label, "step"))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._advance()

    def close(self) -> None:
        self._open.close()


class _MarksWhole(TrainerCallback):
    """Tells checkpoints that all ranks have finished from those that a kill cut short."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._processes.wait()
        if self._processes.is_main:
            write_bytes(Path(args.output_dir) / f"checkpoint-{state.global_step}" / _WHOLE, b"")


def newest_checkpoint(folder: Path) -> Path | None:
    """The last checkpoint in a seed's folder that was written to its end; unfinished ones are deleted."""
    whole: dict[int, Path] = {}
    for path in folder.glob("checkpoint-*"):
        if (path / _WHOLE).is_file():
            whole[int(path.name.rpartition("-")[2])] = path
        else:
            shutil.rmtree(path, ignore_errors=True)
    return whole[max(whole)] if whole else None


def train_seed(
    model: Any,
    tokenizer: Any,
    task: Task,
    recipe: FineTuningRecipe,
    choices: Choices,
    train: Encoded,
    stopped_by: Encoded | None,
    folder: Path,
    seed: int,
    checkpoint: Path | None,
    processes: Processes,
    label: str,
) -> LayerWiseTrainer:
    """Train ``model``; with ``recipe.patience`` its best epoch's weights by ``stopped_by`` remain, else the last ones.

    Args:
        folder: gets checkpoints every ``choices.checkpoint_every`` steps, or every epoch with early stopping.
        checkpoint: where to continue.
        label: what progress is called.

    Raises:
        UserError: the ranks can't share a batch, or memory or disk are too small.
    """
    rows, accumulated = micro_batches(recipe.batch, processes.size, choices.most_per_device)
    stops = recipe.patience is not None
    tagging = task.kind == "tagging"
    collate = DataCollatorForTokenClassification(tokenizer) if tagging else DataCollatorWithPadding(tokenizer)
    unused = without_gradient(model, collate([dict(train.features[0])])) if processes.size > 1 else []
    if unused and processes.is_main:
        log(f"{label}: the loss does not depend on {len(unused)} of the model's weights, such as {unused[0]}")
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=max(rows, min(64, choices.most_per_device)),
        gradient_accumulation_steps=accumulated,
        learning_rate=recipe.rate,
        max_grad_norm=CLIP,
        seed=seed,
        data_seed=seed,
        bf16=choices.bf16,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=bool(unused),
        ddp_backend="gloo" if processes.size > 1 and not torch.cuda.is_available() else None,
        save_strategy="epoch" if stops else "steps",
        save_steps=choices.checkpoint_every,
        save_total_limit=2,
        eval_strategy="epoch" if stops else "no",
        load_best_model_at_end=stops,
        metric_for_best_model=task.main if stops else None,
        greater_is_better=True if stops else None,
        logging_strategy="steps",
        logging_steps=50,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    # Several devices of one process would share a batch by DataParallel; ranks do that.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    # Heads for classes divide by their own number of rows, whatever Trainer hands them to divide by: without this a
    # batch over several ranks or micro-batches would have a gradient that is as many times too long.
    model.accepts_loss_kwargs = False
    progress = _Progress(label)
    callbacks: list[TrainerCallback] = [_MarksWhole(processes)]
    if processes.is_main:
        callbacks.append(progress)
    if recipe.patience is not None:
        callbacks.append(EarlyStoppingCallback(recipe.patience))
    table = rates(model, recipe.rate, recipe.decay, recipe.weight_decay)
    trainer = LayerWiseTrainer(
        warmup=recipe.warmup,
        stopped_by=stopped_by,
        model=model,
        args=arguments,
        train_dataset=list(train.features),
        # Never read: evaluate has the split.
        eval_dataset=list(stopped_by.features) if stops and stopped_by is not None else None,
        data_collator=collate,
        processing_class=tokenizer,
        callbacks=callbacks,
        optimizers=(optimizer(model, table, BETAS, EPSILON), None),
        preprocess_logits_for_metrics=_best_tags if tagging else None,
    )
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except torch.OutOfMemoryError as error:
        raise UserError(f"{label}: the device has too little memory; give --most-per-device below {rows}") from error
    except Exception as error:
        # torch and safetensors each have errors of their own for a disk that is full.
        if shutil.disk_usage(folder).free < _LEAST_FREE:
            raise UserError(f"disk full while writing {folder}: free some space and run again") from error
        raise
    finally:
        progress.close()
    return trainer


def without_gradient(model: Any, batch: Mapping[str, Any]) -> list[str]:
    """Names of the parameters that the loss of a batch does not depend on; ranks would wait for their gradients.

    ELECTRA, BERT and ModernBERT have none with the heads used here. To look for them at each step costs time, and a
    warning of torch's if there are none. Changes neither gradients nor the random state.
    """
    names, parameters = zip(*((n, p) for n, p in model.named_parameters() if p.requires_grad), strict=True)
    with torch.random.fork_rng(devices=[]):
        found = torch.autograd.grad(model(**batch).loss, parameters, allow_unused=True)
    return [name for name, gradient in zip(names, found, strict=True) if gradient is None]


def _best_tags(logits: torch.Tensor, _: Any) -> torch.Tensor:
    """Ids (B, S) of scores (B, S, C): a score for each tag at each position of a whole split would not fit."""
    return logits.argmax(-1)


def all_scores(trainer: LayerWiseTrainer, parts: Mapping[str, Encoded]) -> dict[str, float]:
    """The metrics of several splits; each key of ``parts`` is the suffix of their names."""
    return {f"{name}{suffix}": value for suffix, part in parts.items() for name, value in trainer.scores(part).items()}
