"""Bad input is refused in one line that says what, where and what to do; exit code 2, nothing overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_pipeline.build.build import build_store
from data_pipeline.cli import main as electra_data
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from tests.support.fixtures.runs import plain, run

pytestmark = pytest.mark.slow

RecipeFile = Callable[..., Path]


def refused(command: list[str], folder: Path, *expected: str, fresh: bool = False) -> None:
    result = run(command, folder, fresh=fresh)
    lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for text in expected:
        assert text in lines[0], lines[0]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_unknown_recipe_key_is_refused(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"corruption.focal_gama": 1.0})
    refused(plain("--config", path), tmp_path, "corruption.focal_gama", "focal_gamma", str(path), fresh=True)


def test_a_store_without_a_manifest_is_refused(recipe_file: RecipeFile, store: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "unfinished"
    shutil.copytree(store, unfinished)
    (unfinished / "manifest.json").unlink()
    path = recipe_file(**{"data.store": str(unfinished)})
    refused(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path, str(unfinished), "manifest")
    assert not (tmp_path / "run").exists()


def test_a_global_batch_that_does_not_divide_is_refused(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"batch.global_batch": 9})
    command = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29670"]
    command += ["-m", "electra_scale.pretrain"]
    launched = [plain()[0], *command, "--config", str(path), "--run_dir", str(tmp_path / "run")]
    result = run(launched, tmp_path)
    lines = [line for line in result.stderr.splitlines() if line.startswith("electra-scale: error")]
    assert result.returncode != 0
    assert len(lines) == 1, result.stderr
    assert "batch.global_batch is 9" in lines[0]
    assert "8 or 10" in lines[0]
    assert not (tmp_path / "run").exists()


def test_a_truncated_shard_is_refused(recipe_file: RecipeFile, store: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    for shard in broken.glob("train-*.arrow"):
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    path = recipe_file(**{"data.store": str(broken)})
    refused(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path, ".arrow")


def test_a_flipped_byte_in_a_shard_is_found_and_named(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(store, broken)
    shard = sorted(broken.glob("train-*.arrow"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert electra_data(["verify", str(store)]) == 0
    assert electra_data(["verify", str(broken)]) != 0
    shown = capsys.readouterr()
    assert shard.name in shown.out + shown.err


def test_a_folder_with_a_run_is_not_overwritten(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"schedule.steps": 1, "generator_warmup.steps": 0})
    assert run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path).returncode == 0
    before = snapshot(tmp_path / "run")
    refused(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path, "--resume auto", "--run_dir")
    assert snapshot(tmp_path / "run") == before


def test_resume_with_another_tokenizer_is_refused(
    recipe_file: RecipeFile, corpus: Path, store: Path, tmp_path: Path
) -> None:
    path = recipe_file(**{"schedule.steps": 1, "generator_warmup.steps": 0})
    assert run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path).returncode == 0
    other = tmp_path / "other"
    build_store(
        BuildConfig(
            out=str(other),
            sources=[SourceConfig(kind="jsonl", paths=[str(corpus / "docs.jsonl")])],
            tokenizer=TokenizerConfig(vocab_size=600),
            workers=1,
        )
    )
    fingerprints = [
        yaml.safe_load((folder / "manifest.json").read_text())["tokenizer"]["fingerprint"] for folder in (store, other)
    ]
    before = snapshot(tmp_path / "run")
    command = plain("--config", path, "--run_dir", tmp_path / "run", "--resume", "auto", "--data.store", other)
    refused(command, tmp_path, "tokenizer", *fingerprints)
    assert snapshot(tmp_path / "run") == before


def test_resume_with_other_data_settings_is_refused(recipe_file: RecipeFile, tmp_path: Path) -> None:
    path = recipe_file(**{"schedule.steps": 1, "generator_warmup.steps": 0})
    assert run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path).returncode == 0
    command = plain("--config", path, "--run_dir", tmp_path / "run", "--resume", "auto", "--data.sequence_length", "16")
    refused(command, tmp_path, "sequence_length=32", "sequence_length=16")


def test_an_empty_corpus_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "build.yaml").write_text(
        yaml.safe_dump(
            {"out": str(tmp_path / "store"), "sources": [{"kind": "text", "paths": [str(tmp_path / "empty.txt")]}]}
        )
    )
    assert electra_data(["build", "--config", str(tmp_path / "build.yaml")]) == 2
    assert len([line for line in capsys.readouterr().err.splitlines() if "error" in line]) == 1
    assert not (tmp_path / "store/manifest.json").exists()


def test_a_vocabulary_larger_than_the_ids_type_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"word{number}" for number in range(70_000))]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (tmp_path / "text.txt").write_text("word1 word2 word3")
    settings = {
        "out": str(tmp_path / "store"),
        "sources": [{"kind": "text", "paths": [str(tmp_path / "text.txt")]}],
        "tokenizer": {"path": str(tmp_path / "vocab.txt")},
        "ids_type": "uint16",
    }
    (tmp_path / "build.yaml").write_text(yaml.safe_dump(settings))
    assert electra_data(["build", "--config", str(tmp_path / "build.yaml")]) == 2
    error = capsys.readouterr().err
    assert "uint16" in error
    assert "70,005" in error
    assert not (tmp_path / "store/manifest.json").exists()
