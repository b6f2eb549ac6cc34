"""Keys, tokens and passwords are in no file and no line that this program writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data_pipeline.cli import main as electra_data
from electra_scale.cli import main
from tests.support.fixtures.builds import write_config
from tests.support.fixtures.runs import CREDENTIALS, plain, run, write_recipe

pytestmark = pytest.mark.slow

SECRETS = ["AKIASECRETOFATEST001", "very-secret", "hf_very_secret", "somebody:"]


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**CREDENTIALS, "ELECTRA_SCALE_S3_ATTEMPTS": "1", "ELECTRA_SCALE_S3_TIMEOUT": "2"}.items():
        monkeypatch.setenv(name, value)


def leaked(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [secret for secret in SECRETS if secret.encode() in data]


def test_a_run_its_export_and_its_probe_hold_none(
    finished_run: Path, tmp_path: Path, credentials: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaked((finished_run.parent / "output").read_text()) == []
    assert main(["export", str(finished_run), str(tmp_path / "export")]) == 0
    assert main(["doctor"]) == 0
    shown = capsys.readouterr()
    assert leaked(shown.out + shown.err) == []
    files = [path for folder in (finished_run, tmp_path) for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert {str(path): found for path in files if (found := leaked(path.read_bytes()))} == {}


def test_no_line_about_a_bucket_that_does_not_answer_has_one(
    finished_run: Path,
    small_corpus: Path,
    store: Path,
    tmp_path: Path,
    credentials: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands: list[Callable[[], int]] = [
        lambda: electra_data(["inspect", "s3://bucket/store"]),
        lambda: electra_data(["build", "--config", str(write_config(small_corpus, tmp_path, "s3://bucket/store"))]),
        lambda: main(["export", str(finished_run), "s3://bucket/export"]),
        lambda: main(["doctor", "--store", "s3://bucket/store"]),
        lambda: electra_data(["inspect", "s3://AKIASECRETOFATEST001:very-secret@bucket/store"]),
        lambda: electra_data(["inspect", "https://somebody:very-secret@host/store"]),
    ]
    for command in commands:
        assert command() in (1, 2)
        shown = capsys.readouterr()
        assert shown.out + shown.err
        assert leaked(shown.out + shown.err) == []


@pytest.mark.parametrize("upload", ["s3://bucket/copy", "s3://AKIASECRETOFATEST001:very-secret@bucket/copy"])
def test_a_run_that_cannot_reach_its_copy_writes_none(
    upload: str, store: Path, tmp_path: Path, credentials: None
) -> None:
    recipe = write_recipe(tmp_path, store, **{"checkpoint.upload": "s3://bucket/copy"})
    result = run(plain("--config", recipe, "--run_dir", tmp_path / "run", "--checkpoint.upload", upload), tmp_path)
    assert result.returncode == 2, result.stderr
    assert "error: " in result.stderr
    assert leaked(result.stdout + result.stderr) == []
    for path in (tmp_path / "run").rglob("*"):
        assert not path.is_file() or leaked(path.read_bytes()) == []
