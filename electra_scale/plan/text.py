"""The text of a plan: its figures go in, lines to print come out."""

from __future__ import annotations

from typing import Any

from electra_scale.plan.plan import PUBLISHED

_SLOW_LINK = 0.3


def plan_text(found: dict[str, Any]) -> str:
    """A line for each figure of :func:`electra_scale.plan.plan.plan`."""
    batch, tokens, assumed = found["batch"], found["tokens"], found["assumed"]
    lines = ["parameters"]
    lines += [_row(name, f"{count:,}") for name, count in found["parameters"].items()]
    lines += [
        *_not_trained(found["not_trained"]),
        *_flops(found),
        "tokens",
        _row(
            "a step",
            f"{tokens['step']:,}",
            f"{batch['micro']} x {batch['accumulation']} x {batch['ranks']} samples: per device, accumulated, ranks",
        ),
        _row("in all", f"{tokens['run']:,}"),
        *_memory(found["memory"], batch["micro"], assumed["gpu"]),
        *_streamed(found["streamed_per_node"]),
        *_communication(found["communication_per_step"]),
        f"time, if computing reaches {assumed['efficiency']:.0%} of {assumed['peak_flops'] / 1e12:g} TFLOP/s, the "
        f"nominal peak of {assumed['gpu']}: an assumption",
        f"  ({PUBLISHED}; --efficiency sets it)",
        _row("seconds a step", f"{found['step_seconds']:.4f}", "computing and communication, one after the other"),
        _row("speed/mfu", f"{found['mfu']:.3f}", "the value that training would log"),
        _row("tokens a second", f"{found['tokens_per_second']:,.0f}"),
        _row("hours", f"{found['seconds'] / 3600:,.2f}", f"{found['device_hours']:,.1f} device hours"),
    ]
    if found["cost"] is None:
        lines.append("cost: give --price, the price of a device hour")
    else:
        lines.append(
            _row("cost", f"{found['cost']:,.2f}", f"at {assumed['price']:g} a device hour, under the same assumption")
        )
    return "\n".join(lines)


def _row(name: str, value: str, note: str = "") -> str:
    return f"  {name.replace('_', ' '):<26}{value:>16}  {note}".rstrip()


def _not_trained(names: list[str]) -> list[str]:
    return [f"  not trained in the last phase: {', '.join(names).replace('_', ' ')}"] if names else []


def _flops(found: dict[str, Any]) -> list[str]:
    flops, again = found["flops_per_token"], found["recomputed_flops_per_token"]["joint"]
    lines = ["FLOPs per token of training = 3 x forward", *(f"  {line}" for line in found["flops_formulas"])]
    lines += [_row(name, f"{flops[name]:.4g}") for name in ("generator", "discriminator", "total")]
    lines.append(
        _row("sampling_head", f"{flops['sampling_head']:.4g}", "not in the total; neither speed/mfu nor time counts it")
    )
    if again:
        note = "by activation checkpointing; speed/mfu does not count it, time does"
        lines.append(_row("computed_again", f"{again:.4g}", note))
    return lines


def _memory(memory: dict[str, Any], micro: int, gpu: str) -> list[str]:
    parts = {
        "weights": "",
        "optimizer": "a rank's part of float32 weights and two moments (ZeRO-2)",
        "gradients": "DeepSpeed's bucket, and a rank's part",
        "activations": "",
        "vocabulary_pass": "gradients kept for the backward pass",
    }
    lines = ["memory of a device, GB"]
    lines += [_row(name, f"{memory[name] / 1e9:.3f}", note) for name, note in parts.items()]
    lines.append(
        _row("peak", f"{memory['most'] / 1e9:.3f}", f"reached at: {memory['most_at']}, phase {memory['phase']}")
    )
    largest, usable = memory["largest_micro_batch"], f"{memory['usable'] / 1e9:.1f} GB of {gpu} (a tenth is kept back)"
    if memory["fits"]:
        lines.append(
            _row("usable", f"{memory['usable'] / 1e9:.1f}", f"fits; the largest micro-batch would be {largest}")
        )
    elif largest is not None:
        lines.append(
            f"  does not fit into {usable}: a micro-batch of {micro} is too large, {largest} would fit "
            f"(--batch.most_per_device {largest})"
        )
    else:
        lines.append(
            f"  does not fit into {usable}, whatever the micro-batch: take more devices, a device with more memory, or "
            "shorter samples (data.sequence_length)"
        )
    return lines


def _streamed(streamed: dict[str, Any]) -> list[str]:
    lines = ["streamed to each node, if each reads only its part"]
    lines.append(_row("GB over the run", f"{streamed['run'] / 1e9:,.3f}", "less where the cache holds an epoch"))
    if streamed["epoch"] is not None:
        lines.append(_row("GB an epoch", f"{streamed['epoch'] / 1e9:,.3f}"))
    lines.append(_row("MB/s", f"{streamed['second'] / 1e6:,.3f}", "at the tokens a second below"))
    return lines


def _communication(moved: dict[str, float]) -> list[str]:
    lines = [
        "sent by a device in a step, by DeepSpeed, for P trained parameters of b bytes and R ranks",
        _row("GB all-reduce", f"{moved['reduce'] / 1e9:.4f}", "2 b P (R - 1) / R, under ZeRO-2 for each micro-batch"),
        _row("GB all-gather", f"{moved['all_gather'] / 1e9:.4f}", "b P (R - 1) / R"),
        _row(
            "seconds",
            f"{moved['seconds']:.4f}",
            f"at {moved['link_gb_per_second']:g} GB/s, {moved['link']}; {moved['share_of_step']:.0%} of a step",
        ),
    ]
    if moved["share_of_step"] > _SLOW_LINK:
        lines.append(
            f"  warning: {moved['share_of_step']:.0%} of a step goes into communication; fewer devices, a faster link "
            "(--link) or a larger batch.global_batch would use them better"
        )
    return lines
