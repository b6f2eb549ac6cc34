"""Who takes part: each trainer's package, how it is installed, and the adapter that makes a step of it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass

from tests.conformance.trainer import Trainer

LIGHTNING = "pytorch-lightning==2.6.6 lightning-utilities==0.15.3 torchmetrics==1.9.0 loguru==0.7.3"


@dataclass(frozen=True)
class Contestant:
    """``package`` as the registry has it, ``install`` what pip gets (after ``--no-deps``), ``make`` the adapter."""

    package: str
    install: str
    make: Callable[[], Trainer]

    @property
    def version(self) -> str:
        """What is installed of it."""
        return importlib.metadata.version(self.package)


def _ours(architecture: str, corruption: str) -> Callable[[], Trainer]:
    def make() -> Trainer:
        from tests.conformance.ours import OurTrainer, corruptions

        return OurTrainer(architecture, corruptions()[corruption])

    return make


def _electra_pytorch() -> Trainer:
    from benchmarks.conformance.electra_pytorch import ElectraPytorch

    return ElectraPytorch()


def _zeldarose() -> Trainer:
    from benchmarks.conformance.zeldarose import ZeldaRose

    return ZeldaRose()


def _rtd_gdes() -> Trainer:
    from benchmarks.conformance.rtd_gdes import RtdGdes

    return RtdGdes()


def _simpletransformers(attention_mask: bool) -> Callable[[], Trainer]:
    def make() -> Trainer:
        from benchmarks.conformance.simpletransformers import SimpleTransformers

        return SimpleTransformers(attention_mask)

    return make


CONTESTANTS = {
    "electra-scale, bert, electra": Contestant("electra-scale", "electra-scale", _ours("bert", "generator electra")),
    "electra-scale, modern, hp_loss": Contestant(
        "electra-scale", "electra-scale", _ours("modern", "generator hp_loss")
    ),
    "electra-pytorch": Contestant("electra-pytorch", "electra-pytorch==0.1.2", _electra_pytorch),
    "simpletransformers": Contestant(
        "simpletransformers", "simpletransformers==0.70.8", _simpletransformers(attention_mask=False)
    ),
    "simpletransformers, use_hf_datasets": Contestant(
        "simpletransformers", "simpletransformers==0.70.8", _simpletransformers(attention_mask=True)
    ),
    "rtd-gdes": Contestant("rtd-gdes", "rtd-gdes==0.1.4.1", _rtd_gdes),
    "zeldarose": Contestant("zeldarose", f"zeldarose==0.14.0 {LIGHTNING}", _zeldarose),
}
