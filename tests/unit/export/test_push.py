"""A push sends what makes a model and nothing else, to a private repository, and says so; what fails is one line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from electra_scale.export.push import parcel_of
from tests.support.fixtures.hub import TOKEN, Hub, Repository, running_hub
from tests.support.fixtures.runs import ROOT

FILES = {
    "README.md": b"---\nlicense: mit\n---\n\n# model\n",
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 400,
    "tokenizer.json": b"{}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "checkpoint-3").mkdir(parents=True)
    for name, content in FILES.items():
        (made / name).write_bytes(content)
    for name in ("training_args.bin", "checkpoint-3/optimizer.pt", "checkpoint-3/model.safetensors"):
        (made / name).write_bytes(b"not for others")
    return made


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as started:
        yield started


def push(folder: Path, hub: Hub, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HF_") and name != "TRANSFORMERS_OFFLINE"
    }
    environment |= {"PYTHONPATH": str(ROOT), "HF_HOME": str(folder.parent / "home"), "HF_ENDPOINT": hub.url}
    # The other way of uploading needs a service of the hub's own.
    environment |= {"HF_HUB_DISABLE_XET": "1", **variables}
    command = [sys.executable, "-m", "electra_scale.cli", "push", str(folder), "somebody/model", *options]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_model_is_pushed_to_a_new_private_repository_and_everything_is_said_before(folder: Path, hub: Hub) -> None:
    done = push(folder, hub, HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert hub.repositories == {"somebody/model": Repository(True, FILES)}
    said, address = done.stdout.splitlines()
    assert said == (
        f"uploading 4 files (0.1 MB) of {folder} to somebody/model at {hub.url}: README.md, config.json, "
        "model.safetensors, tokenizer.json; 3 other files stay here, such as checkpoint-3/model.safetensors"
    )
    assert address == f"{hub.url}/somebody/model"


@pytest.mark.slow
def test_a_public_repository_is_written_to_only_when_that_is_asked_for(folder: Path, hub: Hub) -> None:
    hub.repositories["somebody/model"] = Repository(private=False)
    done = push(folder, hub, HF_TOKEN=TOKEN)
    assert done.returncode == 2
    assert "somebody/model is public" in done.stderr
    assert hub.repositories["somebody/model"].files == {}
    done = push(folder, hub, "--public", HF_TOKEN=TOKEN)
    assert done.returncode == 0, done.stderr
    assert hub.repositories["somebody/model"].files == FILES


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({}, "there is no token of the hub; run hf auth login, or set HF_TOKEN"),
        ({"HF_TOKEN": TOKEN, "HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, so nothing is sent to the hub"),
        ({"HF_TOKEN": "hf_wrong"}, "the hub refuses somebody/model (401"),
        ({"HF_TOKEN": TOKEN, "HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 cannot be reached or did not"),
        ({"HF_TOKEN": TOKEN, "read_only": "1"}, "the hub refuses somebody/model (403: This token may only read)"),
    ],
)
def test_what_keeps_a_push_from_being_made_is_one_line(
    folder: Path, hub: Hub, variables: dict[str, str], sentence: str
) -> None:
    hub.read_only = bool(variables.pop("read_only", ""))
    done = push(folder, hub, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("electra-scale: error: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert hub.repositories == {}


def test_what_is_no_model_or_two_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model of transformers"):
        parcel_of(tmp_path / "nothing")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no model of transformers"):
        parcel_of(folder)
    for network in ("discriminator", "generator"):
        (tmp_path / "export" / network).mkdir(parents=True)
        (tmp_path / "export" / network / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds discriminator and generator, .* one model; push .*/discriminator"):
        parcel_of(tmp_path / "export")
