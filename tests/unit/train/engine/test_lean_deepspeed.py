"""What starting a rank imports: nothing that is installed for other ends."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fixtures.runs import ROOT

_READ = """
import sys
from pathlib import Path
import numpy as np
import electra_scale.train.loop
from data_pipeline.store.shard import open_shard, write_shard

one = np.ones(1, np.uint64)
write_shard(Path(sys.argv[1]), one, np.array([0, 1]), one, vocab_size=9, tokenizer_fingerprint="ab" * 32)
assert open_shard(Path(sys.argv[1])).ids.tolist() == [1]
print(*(name for name in ("mlflow", "wandb", "pandas", "polars", "fastapi", "transformers") if name in sys.modules))
"""


@pytest.mark.slow
def test_a_rank_starts_without_the_packages_of_other_commands(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _READ, str(tmp_path / "s.arrow")]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    # DeepSpeed says first which device it takes.
    assert found.stdout.splitlines()[-1] == ""


@pytest.mark.slow
def test_a_package_that_deepspeed_did_not_see_is_there_for_who_wants_it() -> None:
    program = "import electra_scale.train.engine.lean_deepspeed, mlflow; print(mlflow.__name__)"
    found = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "mlflow"


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
