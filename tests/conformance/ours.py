"""Our own trainer, with every architecture and corruption that a recipe can choose, as the checks see it.

Networks, corruption and task are those of a run and the step is :class:`PretrainModule`'s. The table of embeddings is
the identity, so that the features of the generator's head are its scores; what the text gives is added to them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn

from electra_scale.corruption.corruption import Clock, Corruption, LossTerm, build_corruptor
from electra_scale.data.batch import Batch
from electra_scale.data.masking import masks
from electra_scale.data.noise import uniforms_at
from electra_scale.data.rows import SpecialTokens
from electra_scale.model.attention.layout import Layout
from electra_scale.model.electra import Electra
from electra_scale.recipe.corruption import SamplerName
from electra_scale.recipe.kinds import SEAMS, settings_class
from electra_scale.recipe.model import EncoderSize, ModelConfig
from electra_scale.tasks.module import PretrainModule
from electra_scale.tasks.task import build_task
from tests.conformance.trainer import CLS, MASK, MASK_SHARE, PAD, SEP, VOCABULARY, Step, Text

ROLES = SpecialTokens(pad=PAD, cls=CLS, sep=SEP, mask=MASK)
MOST_POSITIONS = 64


def corruptions() -> dict[str, Any]:
    """Settings by name: every kind of corruption as it is by default, and where a kind has samplers, each of them.

    Weights are on where a sampler can have them; two settings that change what is drawn, or when, come on top.
    """
    found: dict[str, Any] = {}
    for kind in SEAMS["corruption"]:
        settings = settings_class("corruption", kind)()
        if not hasattr(settings, "sampler"):
            found[kind] = settings
            continue
        for sampler in get_args(SamplerName):
            found[f"{kind} {sampler}"] = dataclasses.replace(settings, sampler=sampler, weight_power=1.0)
        found[f"{kind} hp_loss, no originals"] = dataclasses.replace(
            settings, sampler="hp_loss", weight_power=1.0, allow_original=False
        )
        found[f"{kind} hp_loss, a step ahead"] = dataclasses.replace(
            settings, sampler="hp_loss", weight_power=1.0, look_ahead=True
        )
    return found


class OurTrainer:
    """One architecture with one corruption, small, its weights moved off their start so that no zero hides a path."""

    def __init__(self, architecture: str, settings: Any) -> None:
        model = ModelConfig(
            vocab_size=VOCABULARY,
            embedding=VOCABULARY,
            discriminator=EncoderSize(2, 16, 24, 2),
            generator=EncoderSize(2, 8, 16, 2),
            max_positions=MOST_POSITIONS,
            dropout=0.0,
            attention_dropout=0.0,
            architecture=settings_class("architecture", architecture)(),
        )
        self.settings = settings
        self.electra = Electra(model, seed=1, with_generator=settings.uses_generator)
        corruptor = build_corruptor(settings, model, ROLES, seed=1)
        task = build_task(settings_class("task", "replaced_tokens")(), model, ROLES)
        self.module = PretrainModule(self.electra, corruptor, task, "joint")
        random = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=random))
            self.electra.word_embeddings.copy_(torch.eye(VOCABULARY))
        self._look()

    def _look(self) -> None:
        """Note what goes through the networks and what corruption and task return, and add what the text gives."""
        self.seen: dict[str, Any] = {}

        def given_to_generator(_: nn.Module, inputs: Any, features: Tensor) -> Tensor:
            given = self.text.generator_scores.flatten(0, 1)[self.batch.masked]
            self.seen["features"] = features + given
            return self.seen["features"]

        def given_to_discriminator(_: nn.Module, inputs: Any, logits: Tensor) -> Tensor:
            self.seen["logits"] = logits + self.text.discriminator_scores
            return self.seen["logits"]

        if self.electra.generator_head is not None:
            self.electra.generator_head.register_forward_hook(given_to_generator)
        self.electra.discriminator_head.register_forward_hook(given_to_discriminator)
        corruptor = self.module.corruptor
        for owner, name in ((corruptor, "corrupt"), (corruptor, "feedback"), (self.module.task, "terms")):
            setattr(owner, name, self._noted(getattr(owner, name), name))
        embed = self.electra.sharing.embed_discriminator

        def noted(ids: Tensor, layout: Layout) -> Tensor:
            self.seen["read"] = ids
            return embed(ids, layout)

        self.electra.sharing.embed_discriminator = noted  # type: ignore[method-assign]

    def _noted(self, call: Any, name: str) -> Any:
        def noted(*arguments: Any, **more: Any) -> Any:
            self.seen[name] = call(*arguments, **more)
            return self.seen[name]

        return noted

    def layout(self, segment: Tensor) -> Layout:
        """What attention is kept within."""
        return Layout.of(segment)

    def step(self, text: Text, seed: int) -> Step:
        self.text, self.batch = text, batch_of(text, seed)
        batch, layout = self.batch, self.layout(self.batch.segment)
        clock = Clock(step=1, epoch=0, phase="joint", phase_step=1, phase_steps=100)
        corruptor = self.module.corruptor
        ahead = corruptor.look_ahead(self.electra, batch, layout, clock) if self.settings.looks_ahead else None
        counts = {name: torch.tensor(self.module.count(name, batch)) for name in self.module.count_names}
        self.module(batch, layout, clock, counts, 1.0, True, ahead)
        corruption: Corruption = self.seen["corrupt"]
        logits = self.seen["logits"]
        judged = summed(self.seen["terms"].terms, counts)
        masked = torch.zeros(text.ids.numel(), dtype=torch.bool).index_fill(0, corruption.positions, True)
        masked = masked.view_as(text.ids)

        def put(rows: Tensor | None) -> Tensor | None:
            if rows is None:
                return None
            return rows.new_zeros(*text.ids.shape, VOCABULARY).masked_scatter(masked[..., None], rows)

        named = dict(self.module.named_parameters())
        gradients: dict[str, Tensor] = {}

        def gradient_of(loss: Tensor, name: str, *inputs: Tensor) -> tuple[Tensor | None, ...]:
            """Its gradients in ``inputs``; those in all weights are kept by name. Asked for once for each loss."""
            everywhere = torch.autograd.grad(loss, [*inputs, *named.values()], retain_graph=True, allow_unused=True)
            found = zip(named, everywhere[len(inputs) :], strict=True)
            gradients.update({f"{name}: {key}": one for key, one in found if one is not None})
            return everywhere[: len(inputs)]

        scores = generator_loss = gradient = leak = None
        if self.settings.uses_generator:
            features, head = self.seen["features"], self.electra.generator_head
            assert head is not None
            scores = (features + head.bias).detach()
            generator_loss = summed(corruption.terms, counts)
            (gradient,) = gradient_of(generator_loss, "generator", features)
            judged_gradient, *leaks = gradient_of(judged, "discriminator", logits, features, *self._of_the_generator())
            leak = max(0.0 if one is None else float(one.abs().max()) for one in leaks)
        else:
            (judged_gradient,) = gradient_of(judged, "discriminator", logits)
        if self.seen["feedback"] and self.seen["feedback"][0].sum.requires_grad:
            gradient_of(summed(self.seen["feedback"], counts), "sampler")
        assert judged_gradient is not None
        p, q = self._distributions(corruption, clock)
        return Step(
            masked=masked,
            drawn=corruption.ids,
            read=self.seen["read"],
            labels=corruption.labels.long(),
            generator_scores=put(scores),
            discriminator_scores=logits.detach(),
            generator_loss=None if generator_loss is None else float(generator_loss.detach()),
            discriminator_loss=float(judged.detach()),
            generator_gradient=put(gradient),
            discriminator_gradient=judged_gradient,
            leak=leak,
            q=put(q),
            p=put(p),
            weights=corruption.token_weight,
            gradients=gradients,
        )

    def _of_the_generator(self) -> Iterator[nn.Parameter]:
        """What the generator and what draws for it have for themselves: all but the shared embeddings."""
        assert self.electra.generator is not None
        assert self.electra.generator_head is not None
        for part in (self.electra.generator, self.electra.generator_head, *self.module.corruptor.modules().values()):
            yield from part.parameters()

    def _distributions(self, corruption: Corruption, clock: Clock) -> tuple[Tensor | None, Tensor | None]:
        """p (M,V), where it is not the softmax of the scores, and q (M,V), where it is not p, as the corruption
        states them."""
        blocks = list(self.module.corruptor.distributions(corruption, clock) or ())
        if not blocks or getattr(self.settings, "sampler", "") == "electra":
            return None, None
        q = torch.cat([block.q for block in blocks])
        if getattr(self.settings, "allow_original", True):
            return None, q
        # Of p without the original token, which is then what the weights refer to.
        p = torch.cat([block.p for block in blocks if block.p is not None])
        p = p.scatter(1, self.text.ids.flatten()[corruption.positions][:, None], 0.0)
        return p / p.sum(-1, keepdim=True), q


def batch_of(text: Text, seed: int) -> Batch:
    """The text with masks and uniform numbers as a run's loader makes them."""
    ids, segment = text.ids.numpy(), torch.where(text.padding, -1, 0)
    epochs, samples = torch.zeros(len(ids), dtype=torch.int64).numpy(), torch.arange(len(ids)).numpy()
    chosen, shown = masks(ids, segment.numpy(), ROLES.ids(), seed, epochs, samples, MASK_SHARE, 0.85)
    flat = chosen.reshape(-1).nonzero()[0]
    uniform = uniforms_at(seed, epochs, samples, ids.shape[1], "replacement", flat)
    return Batch(
        text.ids,
        segment,
        torch.from_numpy(flat),
        torch.from_numpy(shown.reshape(-1)[flat]),
        torch.from_numpy(uniform),
    )


def summed(terms: list[LossTerm], counts: dict[str, Tensor]) -> Tensor:
    """The terms' means over the batch, without their weights in the total."""
    return torch.stack([term.sum / counts[term.per] for term in terms]).sum()
