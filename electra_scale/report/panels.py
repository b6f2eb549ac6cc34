"""Which values of a run are plotted together, in which order, and how each plot is read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """A tag of metrics.jsonl and what the plot calls it."""

    tag: str
    label: str


@dataclass(frozen=True)
class Panel:
    """A plot of one or several tags. ``reading`` says in a sentence or two how to read it; a word in [brackets] is one
    of :data:`WORDS`. ``reference``: a value with its name, such as that of chance."""

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    reading: str
    reference: tuple[float, str] | None = None


@dataclass(frozen=True)
class Section:
    """Plots under one heading; ``name`` is its anchor."""

    name: str
    title: str
    panels: tuple[Panel, ...]


SECTIONS = (
    Section(
        "losses",
        "Losses",
        (
            Panel(
                "generator",
                "Generator",
                "nats per masked token",
                (
                    Series("eval/generator_cross_entropy", "held out"),
                    Series("gen/cross_entropy", "training"),
                ),
                "The [generator] guesses [masked tokens]; lower is better, and a model that knows only how frequent "
                "words are stays at the entropy of the vocabulary. The phases mask different shares, so the "
                "levels of training differ; held-out text is masked as in the joint phase all the time.",
            ),
            Panel(
                "discriminator",
                "Discriminator",
                "loss per token",
                (
                    Series("eval/discriminator_loss", "held out"),
                    Series("loss/discriminator", "training"),
                ),
                "The [discriminator]'s loss. It depends on the generator it trains against, which gets better too: a "
                "loss that stays level is no sign that nothing is learned. The AUC below says more.",
            ),
            Panel(
                "sampler",
                "Sampler's head",
                "loss per draw",
                (Series("loss/sampler", "training"),),
                "How well the [sampler]'s head predicts the discriminator's loss for a drawn token.",
            ),
            Panel(
                "accuracy",
                "Generator's guesses",
                "share of masked tokens",
                (
                    Series("eval/generator_accuracy", "held out"),
                    Series("gen/accuracy", "training"),
                ),
                "The share of masked tokens that the generator's first guess gets right. Above 0.9 next to nothing is "
                "left for the discriminator to find.",
            ),
        ),
    ),
    Section(
        "detection",
        "Detection",
        (
            Panel(
                "auc",
                "AUC",
                "AUC",
                (
                    Series("eval/auc", "held out"),
                    Series("disc/auc", "training"),
                ),
                "The probability that the discriminator gives a replaced token a higher score than an original one. On "
                "held-out text the replacements are the generator's own, so runs with different [samplers] compare; "
                "runs with different generators do not.",
                (0.5, "chance"),
            ),
            Panel(
                "pairs",
                "Pairs without labels",
                "share of pairs",
                (
                    Series("eval/pairs_swapped", "swapped"),
                    Series("eval/pairs_replaced", "replaced"),
                ),
                "How often the discriminator prefers a held-out sentence to its copy with two neighbouring words "
                "swapped, or with one word replaced by another of like frequency. This does not depend on the "
                "generator.",
                (0.5, "chance"),
            ),
            Panel(
                "precision",
                "Precision and recall",
                "share of tokens",
                (Series("disc/precision", "precision"), Series("disc/recall", "recall")),
                "Of the tokens that the discriminator calls replaced (probability above 0.5) the share that are, and "
                "of the replaced ones the share that it finds. Few tokens are replaced, so recall begins near 0.",
            ),
        ),
    ),
    Section(
        "variance",
        "Variance of the discriminator's loss",
        (
            Panel(
                "draws",
                "Variance over draws, q against p",
                "variance of w l",
                (
                    Series("disc_loss_variance/draw_q", "from q"),
                    Series("disc_loss_variance/draw_p", "from p"),
                ),
                "How much the weighted loss at a masked position varies with the draw alone, measured by the variance "
                "probe at fixed weights: with the generator's own draws ([p]), and with those of the sampler ([q]).",
            ),
            Panel(
                "ratio",
                "Draw ratio",
                "variance from q / from p",
                (
                    Series("disc_loss_variance/draw_ratio", "loss"),
                    Series("disc_gradient_variance/draw_ratio", "gradient"),
                ),
                "Below 1 the sampler makes the draw less noisy. The [draw ratio] of the gradient is what an optimizer "
                "could notice. The shade spans each five neighbouring probes, from the least to the largest; a square "
                "with a bar is a probe by command and its standard error.",
                (1.0, "no effect"),
            ),
            Panel(
                "masked",
                "Variance within a batch",
                "variance of w l",
                (Series("disc_loss_variance/masked", "masked positions"),),
                "Over the masked positions of a batch. It rises as the discriminator learns to tell tokens apart: "
                "compare it between runs at the same step, never with its own past.",
            ),
            Panel(
                "window",
                "Variance over steps",
                "variance",
                (Series("disc_loss_variance/step_window", "last 100 steps"),),
                "How much the batch's loss moved over the last 100 steps. While the loss falls this is training, not "
                "noise.",
            ),
        ),
    ),
    Section(
        "draws",
        "Draws and hardness",
        (
            Panel(
                "identical",
                "Draws that replace nothing",
                "share of draws",
                (Series("sampling/identical_rate", "equal to the original"),),
                "A draw that equals the original token leaves nothing to detect. Above 0.9 almost nothing is replaced.",
            ),
            Panel(
                "correlation",
                "Does the head know what is hard?",
                "rank correlation",
                (
                    Series("sampling/hardness_rank_correlation_within", "within a position"),
                    Series("sampling/hardness_rank_correlation", "pooled"),
                ),
                "Spearman's correlation of the predicted [hardness] with the discriminator's loss. Only the one within "
                "a position can lower the variance; the pooled one also counts knowing which positions are hard.",
                (0.0, "unrelated"),
            ),
            Panel(
                "ess",
                "Effective sample size",
                "share of the draws",
                (Series("sampling/ess", "of the weights"),),
                "What the [weights] cost: 1 when all are equal, below 0.2 a few draws carry the loss.",
            ),
            Panel(
                "weight",
                "Largest weight",
                "w = p/q",
                (Series("sampling/weight_max", "largest of the batch"),),
                "At most 1 / corruption.mixture. At that bound it is harmless while the effective sample size is above "
                "0.5.",
            ),
        ),
    ),
    Section(
        "optimizer",
        "Learning rate and gradients",
        (
            Panel(
                "rate",
                "Learning rate",
                "rate",
                (Series("optim/lr", "rate"),),
                "Of the discriminator and of what has no factor of its own; each phase has its own warm-up and decay.",
            ),
            Panel(
                "norm",
                "Gradient",
                "norm before clipping",
                (Series("optim/grad_norm", "all weights"), Series("optim/head_grad_norm", "sampler's head")),
                "Compare it with optimizer.clip, at which it is cut. Frequent jumps ask for a lower rate.",
            ),
            Panel(
                "skipped",
                "Skipped steps",
                "steps so far",
                (Series("optim/skipped_steps", "not finite"),),
                "Steps whose loss or gradient was not finite and which changed nothing.",
            ),
        ),
    ),
    Section(
        "speed",
        "Throughput, and where time went",
        (
            Panel(
                "throughput",
                "Throughput",
                "tokens per second",
                (Series("speed/tokens_per_second", "all ranks"),),
                "Of the steps alone: evaluation, probes and saving are left out. The generator's warm-up is faster, "
                "since it runs one network.",
            ),
            Panel(
                "mfu",
                "Share of the peak",
                "share of peak FLOP/s",
                (Series("speed/mfu", "MFU"),),
                "The arithmetic that the text needs, attention inside documents only, by what the devices could do at "
                "most.",
            ),
            Panel(
                "wait",
                "Waiting for data",
                "share of the time",
                (Series("speed/data_wait", "waiting"),),
                "Time in which a step waited for its batch. More than some percent asks for more prefetching.",
            ),
            Panel(
                "packing",
                "Packing",
                "share of positions",
                (Series("data/packing_efficiency", "not padding"),),
                "The share of a batch's positions that hold tokens.",
            ),
        ),
    ),
)

SHOWN_WHEN_NOT_ZERO = (
    "loss/sampler",
    "optim/head_grad_norm",
    "optim/skipped_steps",
    "sampling/hardness_rank_correlation",
    "sampling/hardness_rank_correlation_within",
)
"""Tags whose zeros say nothing."""

WORDS = {
    "generator": "The network that guesses masked tokens and so proposes replacements.",
    "discriminator": "The network that says of each token whether it was replaced; it is what is kept and fine-tuned.",
    "masked tokens": "Positions whose token is hidden from the generator and may be replaced.",
    "p": "The generator's own distribution over the vocabulary at a masked position.",
    "q": "The distribution that replacements are really drawn from.",
    "sampler": "The rule that makes q of p.",
    "hardness": "The sampler's estimate of the discriminator's loss for each token; q is p tilted towards it.",
    "weights": "w = p/q at the drawn token: it keeps the expected loss that of ELECTRA.",
    "draw ratio": "The variance of w l over draws from q, by that over draws from p: below 1 means less noise.",
}
"""Words of the docs, which docs/variance.md and docs/method.md explain at length."""

ALIASES = {"samplers": "sampler"}
"""Other forms of the words."""
