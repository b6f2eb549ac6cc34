"""What starting a rank imports: nothing that is installed for other ends."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.optim.optimizer import _use_grad_for_differentiable

from electra_scale.train.engine import lean_deepspeed
from tests.support.fixtures.runs import RECIPE, ROOT

_HEAVY = (
    # Each costs a rank a tenth of a second or more, and a run of the plain recipe needs none of them.
    *("torch._dynamo", "torch._inductor", "torch.onnx", "torch.distributed.fsdp", "sympy"),
    *("scipy", "sklearn", "matplotlib", "pandas", "polars", "distutils", "setuptools"),
    *("mlflow", "wandb", "fastapi", "transformers", "datasets", "huggingface_hub"),
)

_TRAIN = """
import sys
from pathlib import Path
from electra_scale.pretrain import main

code = main(sys.argv[3:])
# What a build does; a run has read shards already.
import numpy as np
from data_pipeline.store.shard import write_shard

one = np.ones(1, np.uint64)
write_shard(Path(sys.argv[2]), one, np.array([0, 1]), one, vocab_size=9, tokenizer_fingerprint="ab" * 32)
print("imported:", *(name for name in sys.argv[1].split(",") if name in sys.modules))
sys.exit(code)
"""

_PLAIN = """
import sys
import torch

weight = torch.ones(2, requires_grad=True)
optimizer = torch.optim.AdamW([weight])
adds = "torch._dynamo" in sys.modules
sys.modules.pop("torch._dynamo", None)
optimizer.step()
print(adds, "torch._dynamo" in sys.modules)
"""


@pytest.mark.slow
def test_neither_a_run_nor_a_shard_imports_a_package_that_it_does_not_use(store: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    settings = {"data": {"store": str(store)}, "run_dir": str(tmp_path / "run")}
    settings |= {"schedule": {"steps": 1, "warmup_steps": 0}, "generator_warmup": {"steps": 1, "warmup_steps": 0}}
    recipe.write_text(yaml.safe_dump(RECIPE | settings | {"data": RECIPE["data"] | settings["data"]}))
    # Not by the warm starter, which has imported all that any run uses.
    command = [sys.executable, "-c", _TRAIN, ",".join(_HEAVY), str(tmp_path / "s.arrow"), "--config", str(recipe)]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
    assert found.stdout.splitlines()[-1] == "imported:"


@pytest.mark.slow
def test_optimizers_of_torch_still_load_its_compiler_by_themselves() -> None:
    # Where they do not, lean_deepspeed needs to change none of their methods any more.
    found = subprocess.run([sys.executable, "-c", _PLAIN], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["True", "True"]


def test_an_update_is_torchs_own_and_records_gradients_only_where_it_is_asked_to() -> None:
    def updated(step: Callable[..., object], **options: bool) -> tuple[torch.Tensor, list[bool]]:
        weight = torch.linspace(-1, 1, 7).requires_grad_()
        optimizer = torch.optim.AdamW([weight], lr=0.1, **options)
        weight.grad = torch.linspace(2, 3, 7)
        seen: list[bool] = []

        def loss() -> float:
            seen.append(torch.is_grad_enabled())
            return 0.0

        step(optimizer, loss)
        assert torch.is_grad_enabled()
        return weight.detach(), seen

    # It has replaced the method; torch puts its profiler's hook around whatever it finds, at the first optimizer.
    wrapped: list[Callable[..., object]] = []
    inspect.unwrap(torch.optim.Adam.step, stop=lambda method: bool(wrapped.append(method)))
    (replaced,) = (method for method in wrapped if method.__code__.co_filename == lean_deepspeed.__file__)
    plain = inspect.unwrap(torch.optim.AdamW.step)
    ours, seen = updated(replaced)
    torchs, _ = updated(_use_grad_for_differentiable(plain))
    assert torch.equal(ours, torchs)
    assert seen == [True]


@pytest.mark.slow
def test_a_package_that_deepspeed_did_not_see_is_there_for_who_wants_it() -> None:
    program = "import electra_scale.train.engine.lean_deepspeed, mlflow; print(mlflow.__name__)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "mlflow"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        ("gpu", "does not take DS_ACCELERATOR=gpu"),
        ("", "does not take DS_ACCELERATOR="),
        ("xpu", "does not take DS_ACCELERATOR=xpu"),
        pytest.param(
            "cuda",
            "DS_ACCELERATOR is cuda in the environment, but torch sees no CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device"),
        ),
    ],
)
def test_a_wrong_name_of_an_accelerator_is_one_line(accelerator: str, said: str, store: Path, tmp_path: Path) -> None:
    given = ["--config", "tiny", "--data.store", str(store), "--run_dir", str(tmp_path / "run")]
    command = [sys.executable, "-m", "electra_scale.pretrain", *given]
    environment = {**os.environ, "DS_ACCELERATOR": accelerator, "PYTHONPATH": str(ROOT)}
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    (line,) = found.stderr.splitlines()
    assert (found.returncode, found.stdout) == (2, "")
    assert said in line
    assert "unset it" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_guess_that_there_is_no_gpu_is_not_printed() -> None:
    program = "import electra_scale.train.engine.lean_deepspeed as lean; print(lean.get_accelerator().device_name())"
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    assert len(found.stdout.splitlines()) == 1


def test_no_other_module_imports_deepspeed_while_it_is_imported() -> None:
    # That module's own imports stand in a `with`.
    found = set()
    for path in (ROOT / "electra_scale").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] == "deepspeed" for name in names):
                found.add(path.name)
    assert found == set()
