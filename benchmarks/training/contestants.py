"""Trainers of ELECTRA as their users run them, each making one whole step at a time: forward, backward, clip, update.

A process of :mod:`benchmarks.training.peers`: it reads the number of a step from a line of its input, makes that step,
and answers with its seconds, its tokens of text and the memory that the process has had at most.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.measure import report
from electra_scale.recipe.parse import parse_recipe, recipe_parser
from electra_scale.recipe.recipe import Recipe

PAD, CLS, SEP, MASK, FIRST_ORDINARY = 0, 2, 3, 4, 5
LENGTHS = {
    "full": "every position of a row holds text",
    "documents": "log-normal lengths, median 48, deviation 0.8, cut at the row; padded to the longest",
    "sorted": "the same documents, a step's of about equal length",
}
"""Kinds of rows; ours packs documents into full rows, whatever their order."""

Step = Callable[[list[Tensor]], None]


def documents_of(step: int, rows: int, length: int, vocabulary: int, lengths: str) -> list[Tensor]:
    """The texts of a step, random tokens, each without [CLS] and [SEP], which take two positions of its row."""
    random = torch.Generator().manual_seed(step)
    inner = length - 2
    if lengths == "full":
        sizes = torch.full((rows,), inner)
    else:
        # A sorted step is a slice of many documents in the order of their lengths.
        many = rows * (16 if lengths == "sorted" else 1)
        drawn = (3.87 + 0.8 * torch.randn(many, generator=random)).exp().long().clamp(6, inner)
        sizes = drawn if lengths == "documents" else drawn.sort().values.view(16, rows)[step % 16]
    return [torch.randint(FIRST_ORDINARY, vocabulary, (int(size),), generator=random) for size in sizes]


def padded(documents: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Ids (B,S) as a tokenizer's collator pads them, and where they are real."""
    longest = max(len(document) for document in documents) + 2
    ids = torch.full((len(documents), longest), PAD)
    for row, document in enumerate(documents):
        ids[row, : len(document) + 2] = torch.cat([torch.tensor([CLS]), document, torch.tensor([SEP])])
    return ids, ids != PAD


def transformers_networks(recipe: Recipe, vocabulary: int) -> tuple[Any, Any]:
    """transformers' two Electra models of the recipe's sizes, with one table of embeddings."""
    from transformers import ElectraForMaskedLM, ElectraForPreTraining

    from electra_scale.model.architectures.architecture import architecture_of

    architecture = architecture_of(recipe.networks(vocabulary))
    generator = ElectraForMaskedLM(architecture.transformers_config("generator"))
    discriminator = ElectraForPreTraining(architecture.transformers_config("discriminator"))
    for part in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
        shared = getattr(generator.electra.embeddings, part)
        setattr(discriminator.electra.embeddings, part, shared)
    return generator.train(), discriminator.train()


def losses(
    generator: nn.Module, discriminator: nn.Module, ids: Tensor, real: Tensor, share: float, weight: float
) -> Tensor:
    """The loss of a plain loop: logits everywhere, cross-entropy and a draw where tokens are masked."""
    ordinary = real & (ids >= FIRST_ORDINARY)
    masked = ordinary & (torch.rand(ids.shape) < share)
    logits = generator(input_ids=ids.masked_fill(masked, MASK), attention_mask=real.long()).logits
    generator_loss = nn.functional.cross_entropy(logits[masked].float(), ids[masked])
    with torch.no_grad():
        drawn = torch.distributions.Categorical(logits=logits[masked].float()).sample()
    corrupted = ids.clone()
    corrupted[masked] = drawn
    scores = discriminator(input_ids=corrupted, attention_mask=real.long()).logits
    labels = (corrupted != ids).float()
    detection = nn.functional.binary_cross_entropy_with_logits(scores.float()[real], labels[real])
    return generator_loss + weight * detection


def _optimizer(recipe: Recipe, *networks: nn.Module) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
    parameters = list({id(one): one for network in networks for one in network.parameters()}.values())
    settings = recipe.optimizer
    return torch.optim.AdamW(
        parameters, settings.learning_rate, settings.betas, settings.eps, settings.weight_decay
    ), parameters


def transformers_loop(recipe: Recipe, vocabulary: int, autocast: bool) -> Step:
    """A loop over transformers' two models, as a user writes it."""
    generator, discriminator = transformers_networks(recipe, vocabulary)
    optimizer, parameters = _optimizer(recipe, generator, discriminator)

    def step(documents: list[Tensor]) -> None:
        ids, real = padded(documents)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = losses(generator, discriminator, ids, real, recipe.data.mask_share, recipe.task.discriminator_weight)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Logits(nn.Module):
    """A network of transformers that electra-pytorch calls with ids and reads scores or states from."""

    def __init__(self, network: Any, states: bool) -> None:
        super().__init__()
        self.network, self.states = network, states

    def forward(self, ids: Tensor, **_: Any) -> Tensor:
        found = self.network(input_ids=ids, attention_mask=(ids != PAD).long())
        result: Tensor = found.last_hidden_state if self.states else found.logits
        return result


def electra_pytorch(recipe: Recipe, vocabulary: int) -> Step:
    """The package electra-pytorch around the same two networks."""
    from electra_pytorch import Electra

    generator, discriminator = transformers_networks(recipe, vocabulary)
    trainer = Electra(
        _Logits(generator, states=False),
        _Logits(discriminator.electra, states=True),
        num_tokens=vocabulary,
        discr_dim=recipe.model.discriminator.hidden,
        mask_prob=recipe.data.mask_share,
        mask_token_id=MASK,
        pad_token_id=PAD,
        mask_ignore_token_ids=[CLS, SEP],
        disc_weight=recipe.task.discriminator_weight,
    )
    optimizer, parameters = _optimizer(recipe, trainer)

    def step(documents: list[Tensor]) -> None:
        trainer(padded(documents)[0]).loss.backward()
        nn.utils.clip_grad_norm_(parameters, recipe.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step


def ours(recipe: Recipe, vocabulary: int, deepspeed_json: str, length: int) -> Step:
    """This package's step: packed rows, its engine under ZeRO-2, one micro-batch."""
    from electra_scale.corruption.corruption import Clock
    from electra_scale.data.batch import Batch
    from electra_scale.data.rows import SpecialTokens
    from electra_scale.model.attention.layout import Layout
    from electra_scale.recipe.deepspeed_json import read_deepspeed_json, resolve_deepspeed_json
    from electra_scale.tasks.module import build_module
    from electra_scale.train.engine.engine import Engine
    from electra_scale.train.engine.world import join_world

    world = join_world()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    special = SpecialTokens(pad=PAD, cls=CLS, sep=SEP, mask=MASK)
    module = build_module(recipe, recipe.networks(vocabulary), special, "joint")
    parameters = sum(parameter.numel() for parameter in module.parameters())
    rate = recipe.optimizer.learning_rate
    content = read_deepspeed_json(deepspeed_json)
    rows = recipe.batch.global_batch
    engine = Engine(module, resolve_deepspeed_json(content, recipe.optimizer, rate, rows, 1, 1, parameters),
                    recipe.optimizer, world)  # fmt: skip

    def step(documents: list[Tensor]) -> None:
        ids, segment = packed(documents, length)
        ordinary = (ids >= FIRST_ORDINARY).flatten()
        masked = ((torch.rand(len(ordinary)) < recipe.data.mask_share) & ordinary).nonzero()[:, 0]
        shown = torch.rand(len(masked)) < recipe.data.mask_token_share
        batch = Batch(ids, segment, masked, shown, torch.rand(len(masked), dtype=torch.float64))
        counts = {"masked": torch.tensor(float(len(masked))), "tokens": torch.tensor(float((segment >= 0).sum()))}
        engine.forward_backward(batch, Layout.of(segment), Clock(0, 0, "joint", 0), counts, False)
        engine.step(rate)

    return step


def packed(documents: list[Tensor], length: int) -> tuple[Tensor, Tensor]:
    """Rows (R, ``length``) of whole documents, each with [CLS] and [SEP], the longest first; and their segments."""
    rows: list[list[Tensor]] = []
    room: list[int] = []
    for document in sorted(documents, key=len, reverse=True):
        need = len(document) + 2
        row = next((number for number, left in enumerate(room) if left >= need), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(document)
        room[row] -= need
    ids, segment = torch.full((len(rows), length), PAD), torch.full((len(rows), length), -1)
    for number, texts in enumerate(rows):
        begin = 0
        for index, text in enumerate(texts):
            end = begin + len(text) + 2
            ids[number, begin:end] = torch.cat([torch.tensor([CLS]), text, torch.tensor([SEP])])
            segment[number, begin:end] = index
            begin = end
    return ids, segment


def trainer_steps(
    recipe: Recipe,
    vocabulary: int,
    documents: Callable[[int], list[Tensor]],
    take: Callable[[], list[Tensor] | None],
    done: Callable[[], None],
) -> None:
    """transformers' Trainer with DeepSpeed ZeRO-2, its loop stopped before each step until it is asked for.

    It reads batches ahead, so the steps must be asked for in their order.
    """
    from torch.utils.data import IterableDataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    generator, discriminator = transformers_networks(recipe, vocabulary)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.discriminator = generator, discriminator

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
            weight = recipe.task.discriminator_weight
            return {
                "loss": losses(
                    self.generator, self.discriminator, input_ids, attention_mask, recipe.data.mask_share, weight
                )
            }

    class Steps(IterableDataset[Any]):
        def __iter__(self) -> Iterator[Any]:
            for number in itertools.count():
                ids, real = padded(documents(number))
                yield {"input_ids": ids, "attention_mask": real}

    class Asked(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            if take() is None:
                sys.exit(0)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            done()

    settings = recipe.optimizer
    content = {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_optimization": {"stage": 2},
        "zero_allow_untested_optimizer": True,
    }
    arguments = TrainingArguments(
        output_dir=os.path.join(os.environ.get("TMPDIR", "/tmp"), "trainer"),
        per_device_train_batch_size=1,
        max_steps=1_000_000,
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.clip,
        deepspeed=content,
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        use_cpu=True,
        dataloader_num_workers=0,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    Trainer(
        model=Both(), args=arguments, train_dataset=Steps(), data_collator=lambda batches: batches[0],
        callbacks=[Asked()],
    ).train()  # fmt: skip


CONTESTANTS = {
    "ours-hp_loss": "hp_loss and focal loss, fp32",
    "ours-electra": "plain ELECTRA, fp32",
    "ours-hp_loss-bf16": "hp_loss and focal loss, ds_configs/zero2_bf16.json",
    "transformers": "a loop over transformers' two models, fp32",
    "transformers-bf16": "the same under bf16 autocast",
    "electra-pytorch": "the package electra-pytorch, fp32",
    "trainer": "transformers' Trainer with DeepSpeed ZeRO-2, fp32",
}


def step_of(name: str, recipe: Recipe, vocabulary: int, length: int) -> Step:
    """The step of a contestant that does not run a loop of its own."""
    if name.startswith("ours"):
        recipe.corruption.sampler = "electra" if "electra" in name else "hp_loss"
        recipe.corruption.focal_gamma = 0.0 if "electra" in name else 1.0
        content = "ds_configs/zero2_bf16.json" if name.endswith("bf16") else "ds_configs/zero2.json"
        return ours(recipe, vocabulary, content, length)
    if name == "electra-pytorch":
        return electra_pytorch(recipe, vocabulary)
    return transformers_loop(recipe, vocabulary, autocast=name.endswith("bf16"))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--vocabulary", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--length", type=int)
    parser.add_argument("--lengths", required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe, _ = parse_recipe(recipe_parser("contestants"), ["--config", args.recipe])
    length = args.length or recipe.data.sequence_length
    recipe.data.sequence_length = length
    recipe.batch = replace(recipe.batch, global_batch=args.rows, most_per_device=args.rows)
    began, tokens = 0.0, 0

    def documents(number: int) -> list[Tensor]:
        return documents_of(number, args.rows, length, args.vocabulary, args.lengths)

    def take() -> list[Tensor] | None:
        nonlocal began, tokens
        line = sys.stdin.readline()
        if not line:
            return None
        texts = documents(int(line))
        tokens = sum(len(text) + 2 for text in texts)
        began = time.perf_counter()
        return texts

    def done() -> None:
        seconds = time.perf_counter() - began
        # Linux counts kilobytes.
        report(seconds=seconds, tokens=tokens, memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)

    if args.name == "trainer":
        report(ready=True)
        trainer_steps(recipe, args.vocabulary, documents, take, done)
        return
    step = step_of(args.name, recipe, args.vocabulary, length)
    report(ready=True)
    while (texts := take()) is not None:
        step(texts)
        done()


if __name__ == "__main__":
    main()
