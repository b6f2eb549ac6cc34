"""The pass over the vocabulary beside the direct form: peak extra memory and time, forward and backward.

python -m benchmarks.training.vocabulary --out runs/bench/vocabulary.json

See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from benchmarks.measure import pick_cores, report, run, script, spread, table, write_figures
from electra_scale.corruption.sampler import Masked, Sampler
from electra_scale.corruption.samplers.build import build_sampler
from electra_scale.corruption.samplers.hp_loss import HardnessLossSampler
from electra_scale.corruption.vocabulary.vocabulary_pass import vocabulary_pass
from electra_scale.recipe.corruption import GeneratorSettings, SamplerName
from electra_scale.recipe.model import EncoderSize, ModelConfig

HIDDEN = 64
MEMORY_TARGET = 150e6
DIRECT, DIRECT_DRAW = "direct cross-entropy", "direct hp_loss"
SAMPLERS = ("electra", "temperature", "hp_loss", "hp_dist")
CONTESTANTS = (DIRECT, DIRECT_DRAW, *(f"pass {name}" for name in SAMPLERS))
WARM_UP_POSITIONS = 64


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the pass over the vocabulary beside the direct form.")
    parser.add_argument("--positions", type=int, default=4096, help="masked positions M (4096)")
    parser.add_argument("--vocabulary", type=int, default=30522, help="tokens V (30522)")
    parser.add_argument("--embedding", type=int, default=128, help="embedding size E (128)")
    parser.add_argument("--width", type=int, default=64, help="width of the sampling head (64)")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads, each measured (2 1)")
    parser.add_argument("--rounds", type=int, default=7, help="times that each contestant is timed (7)")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--work", type=Path, default=Path("runs/bench/vocabulary"), help="folder of the logs")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/vocabulary.json"), help="JSON with every figure")
    parser.add_argument("--task", choices=("memory", "time"), help=argparse.SUPPRESS)
    return parser.parse_args()


class Problem:
    """Masked positions and samplers of a size; features, embeddings and bias are leaves with gradients."""

    def __init__(self, args: argparse.Namespace, positions: int) -> None:
        def normal(*shape: int, deviation: float = 1.0) -> Tensor:
            return torch.randn(*shape, generator=generator).mul_(deviation)

        generator = torch.Generator().manual_seed(0)
        vocabulary, embedding = args.vocabulary, args.embedding
        self.masked = Masked(
            features=normal(positions, embedding).requires_grad_(),
            word_embeddings=normal(vocabulary, embedding, deviation=0.1).requires_grad_(),
            bias=normal(vocabulary).requires_grad_(),
            hidden=normal(positions, HIDDEN).requires_grad_(),
            original=torch.randint(vocabulary, (positions,), generator=generator),
            uniform=torch.rand(positions, generator=generator, dtype=torch.float64),
        )
        # Stands in for the discriminator's loss at the draws.
        self.loss = torch.rand(positions, generator=generator)
        size = EncoderSize(1, HIDDEN, HIDDEN, 1)
        self.model = ModelConfig(vocab_size=vocabulary, embedding=embedding, discriminator=size, generator=size)
        self.width = args.width

    def sampler(self, name: str) -> Sampler:
        """With the defaults of its settings, and weights off their start of zero."""
        objective = GeneratorSettings(sampler=cast(SamplerName, name))
        objective = replace(objective, head=replace(objective.head, width=self.width))
        sampler = build_sampler(objective, self.model, seed=0)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in sampler.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        return sampler

    def contestant(self, name: str) -> Callable[[], None]:
        """Forward and backward of one contestant, gradients made anew."""
        masked = self.masked
        sampler = self.sampler("hp_loss" if name.startswith("direct") else name.removeprefix("pass "))
        leaves = [masked.features, masked.word_embeddings, masked.bias, masked.hidden, *sampler.parameters()]

        def loss() -> Tensor:
            if name == DIRECT:
                return direct_loss(masked)[0]
            if name == DIRECT_DRAW:
                assert isinstance(sampler, HardnessLossSampler)
                return direct_draw(masked, sampler)
            found = vocabulary_pass(masked, sampler)
            # The loss of hp_loss touches drawn rows only and is the same for any form; that of hp_dist is a pass.
            if name != "pass hp_dist":
                return found.loss
            assert found.drawn is not None
            return found.loss + sampler.loss(masked, found.drawn, self.loss).sum()

        def work() -> None:
            for leaf in leaves:
                leaf.grad = None
            loss().backward()

        return work


def direct_loss(masked: Masked) -> tuple[Tensor, Tensor]:
    """Cross-entropy and the M x V scores."""
    scores = masked.features @ masked.word_embeddings.T + masked.bias
    return cross_entropy(scores, masked.original, reduction="sum"), scores


def direct_draw(masked: Masked, sampler: HardnessLossSampler) -> Tensor:
    """Cross-entropy, and with M x V tensors all over a draw from q and its weight."""
    loss, scores = direct_loss(masked)
    with torch.no_grad():
        head = sampler.head
        features = head.features(masked.hidden)
        hardness = features @ head.keys(masked.word_embeddings).T + head.offset(features)[:, None]
        assert head.own_token is not None
        hardness.scatter_(1, masked.original[:, None], head.own_token(features))
        hardness = softplus(hardness).sqrt() + sampler.floor
        p = scores.softmax(-1)
        q = p * hardness
        q = (1 - sampler.mixture) * q / q.sum(-1, keepdim=True) + sampler.mixture * p
        cumulative = q.double().cumsum(-1)
        tokens = torch.searchsorted(cumulative, masked.uniform[:, None] * cumulative[:, -1:], right=True)
        _weight = p.gather(1, tokens) / q.gather(1, tokens)
    return loss


def own_memory() -> dict[str, int]:
    """Bytes of this process in memory now, and at most since :func:`forget_peak`."""
    status = Path("/proc/self/status").read_text()
    return {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def measure_memory(args: argparse.Namespace) -> None:
    """The peak of one contestant, after a small one has loaded what torch loads once."""
    torch.set_num_threads(args.threads[0])
    name = args.contestants[0]
    Problem(args, WARM_UP_POSITIONS).contestant(name)()
    work = Problem(args, args.positions).contestant(name)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    forget_peak()
    before = own_memory()["VmRSS"]
    work()
    report(extra=own_memory()["VmHWM"] - before)


def measure_time(args: argparse.Namespace) -> None:
    """Seconds of each contestant in each round, taking turns."""
    torch.set_num_threads(args.threads[0])
    problem = Problem(args, args.positions)
    works = {name: problem.contestant(name) for name in args.contestants}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(args.rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            # The first round warms up.
            if number:
                seconds[name].append(time.perf_counter() - start)
    report(seconds=seconds)


def child(args: argparse.Namespace, task: str, threads: int, contestants: list[str]) -> dict[str, Any]:
    """What a process of this script reports; ends the benchmark if it fails."""
    command = script(
        "training.vocabulary", "--task", task, "--threads", threads, "--rounds", args.rounds,
        "--positions", args.positions, "--vocabulary", args.vocabulary, "--embedding", args.embedding,
        "--width", args.width, "--contestants", *contestants,
    )  # fmt: skip
    log = args.work / f"{task}-{threads}-{'-'.join(contestants).replace(' ', '-')[:60]}.log"
    outcome = run(command, log, pick_cores(threads), {"OMP_NUM_THREADS": str(threads)})
    if outcome.failure:
        sys.exit(f"{task}, {', '.join(contestants)}: {outcome.failure}")
    return outcome.result


def main() -> None:
    args = arguments()
    if args.task:
        return measure_memory(args) if args.task == "memory" else measure_time(args)
    figures: dict[str, dict[str, Any]] = {name: {} for name in args.contestants}
    for name in args.contestants:
        figures[name]["extra_bytes"] = child(args, "memory", args.threads[0], [name])["extra"]
    for threads in args.threads:
        for name, seconds in child(args, "time", threads, args.contestants)["seconds"].items():
            figures[name][f"seconds_{threads}"] = spread(seconds)
    rows = []
    for name, found in figures.items():
        row = [name, f"{found['extra_bytes'] / 1e6:,.0f}"]
        for threads in args.threads:
            times = found[f"seconds_{threads}"]
            first = figures[args.contestants[0]][f"seconds_{threads}"]["median"]
            row += [
                f"{times['median']:.3f} ({times['least']:.3f} to {times['most']:.3f})",
                f"{times['median'] / first:.2f}",
            ]
        rows.append(row)
    headings = ["contestant", "MB extra at most"]
    for threads in args.threads:
        headings += [f"seconds, {threads} threads" if threads > 1 else "seconds, 1 thread", "of the first"]
    print(f"M = {args.positions:,}, V = {args.vocabulary:,}, E = {args.embedding}, width {args.width}")
    print(table(headings, rows))
    write_figures(args, figures=figures)


if __name__ == "__main__":
    main()
