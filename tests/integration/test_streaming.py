"""Training from an object store: killed, cut off or sent damaged data, a run trains what one from a folder trains."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_pipeline.build.build import build_store
from data_pipeline.cli import main as electra_data
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from data_pipeline.places.open import open_place
from data_pipeline.store.manifest import MANIFEST_NAME
from electra_scale.cli import main as electra_scale
from electra_scale.data.loader import Loader
from electra_scale.data.split import Split
from electra_scale.data.store import Store, special_tokens
from electra_scale.recipe.data import DataConfig
from tests.support.fixtures.faults import FaultyProxy
from tests.support.fixtures.runs import RECIPE, end, environment, plain, ranks, rows, run, start
from tests.support.fixtures.s3 import S3Server
from tests.support.waiting import wait_for_rows

pytestmark = pytest.mark.slow

STEPS = 24
DATA = {"streams": 8, "shuffle_window": 8, "prefetch_shards": 1}


@pytest.fixture(scope="module")
def small_shards(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of many small shards, so that some are fetched all through a short run."""
    folder = tmp_path_factory.mktemp("small")
    lines = (corpus / "docs.jsonl").read_text().splitlines()[:400]
    (folder / "docs.jsonl").write_text("\n".join(lines) + "\n")
    build(folder, str(folder / "store"))
    return folder / "store"


def build(folder: Path, out: str) -> None:
    build_store(
        BuildConfig(
            out=out,
            sources=[SourceConfig(kind="jsonl", paths=[str(folder / "docs.jsonl")])],
            tokenizer=TokenizerConfig(vocab_size=600),
            held_out=0.05,
            task_bytes=2048,
            workers=1,
        )
    )


def write_recipe(folder: Path, store: str, **data: Any) -> Path:
    recipe = json.loads(json.dumps(RECIPE))
    recipe["data"] |= {"store": store, **DATA, **data}
    recipe["generator_warmup"]["steps"] = 0
    recipe["schedule"]["steps"] = STEPS
    recipe["checkpoint"]["every"] = 4
    recipe["logging"] |= {"evaluate_every": 100, "evaluate_samples": 4, "probe_every": 0}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


@pytest.fixture(scope="module")
def straight(small_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Metrics rows of a run from the folder that is never stopped."""
    folder = tmp_path_factory.mktemp("straight")
    path = write_recipe(folder, str(small_shards), prefetch_threads=0)
    result = run(ranks(2, "--config", path, "--run_dir", folder / "run"), folder)
    found = rows(folder / "run")
    assert len(found) == STEPS, result.stdout + result.stderr
    assert all(row["data/fetched_mb"] == 0 for row in found)
    return found


def upload(store: Path, url: str) -> None:
    """A finished store from a folder, its manifest last."""
    place = open_place(url)
    files = [path for path in store.rglob("*") if path.is_file() and ".build" not in path.parts]
    for path in sorted(files, key=lambda path: (path.name == MANIFEST_NAME, path)):
        place.put_file(path.relative_to(store).as_posix(), path)


@pytest.fixture
def arguments(tmp_path: Path) -> Callable[..., list[str]]:
    """Arguments of a run from ``store`` through a cache of its own."""

    def make(store: str, *more: str, **data: Any) -> list[str]:
        path = write_recipe(tmp_path, store, cache={"folder": str(tmp_path / "cache"), "limit_gb": 0.001}, **data)
        return ["--config", str(path), "--run_dir", str(tmp_path / "run"), "--resume", "auto", *more]

    return make


def learned(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Metrics rows without the figures that depend on where the shards came from."""
    return [{name: value for name, value in row.items() if not name.startswith("data/fetch")} for row in found]


def log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


class Gate:
    """A shard that the proxy refuses until :meth:`open`; training can do ``steps`` steps without it."""

    def __init__(self, proxy: FaultyProxy, store_path: Path) -> None:
        store = Store(store_path)
        data = DataConfig(**RECIPE["data"] | DATA)
        loader = Loader(
            Split(store, "train", special_tokens(store.tokenizer_dir), data),
            RECIPE["seed"],
            RECIPE["batch"]["global_batch"],
        )
        shards = loader.order.places(np.arange(STEPS * 8)).shard
        first_need = {shard: int(np.flatnonzero(shards == shard)[0]) // 8 for shard in np.unique(shards)}
        shard = min(first_need, key=lambda shard: abs(first_need[shard] - 10))
        self.steps = first_need[shard]
        assert 4 <= self.steps < STEPS
        self.name = loader.split.entries[shard].name
        self.proxy = proxy
        proxy.only = lambda method, path: self.name in path
        self.close()

    def close(self) -> None:
        self.proxy.every = {"refuse": 1}

    def open(self) -> None:
        self.proxy.every = {}


@pytest.fixture
def gated(faulty_s3: FaultyProxy, small_shards: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Gate, str]:
    """A store in a bucket with a shard that the proxy refuses at first, and its URL."""
    url = f"{faulty_s3.url}/stores/small"
    upload(small_shards, url)
    monkeypatch.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "3")
    return Gate(faulty_s3, small_shards), url


def test_a_store_in_a_bucket_is_built_verified_trained_from_killed_and_resumed_over_a_bad_network(
    gated: tuple[Gate, str],
    small_shards: Path,
    straight: list[dict[str, Any]],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gate, _ = gated
    gate.open()
    url = f"{gate.proxy.url}/stores/built"
    build(small_shards.parent, url)
    assert Store(small_shards).manifest.fingerprint in open_place(url).read(MANIFEST_NAME).decode()
    assert electra_data(["verify", url]) == 0, capsys.readouterr()
    gate.close()
    process = start(ranks(2, *arguments(url)), tmp_path)
    try:
        wait_for_rows(tmp_path / "run", gate.steps, process)
    finally:
        end(process)
    assert len(rows(tmp_path / "run")) == gate.steps
    proxy = gate.proxy
    proxy.every = {"slow_down": 5, "cut": 4, "delay": 2, "refuse": 11, "flip_down": 9}
    proxy.only = lambda method, path: method == "GET" and ".arrow" in path
    result = run(ranks(2, *arguments(url)), tmp_path)
    found = rows(tmp_path / "run")
    assert result.returncode == 0, result.stdout + result.stderr
    assert learned(found) == learned(straight)
    assert {"slow_down", "cut", "delay"} <= set(proxy.injected)
    assert found[-1]["data/fetched_mb"] > 0
    assert found[-1]["data/fetch_errors"] > 0
    assert "trying again" in log(tmp_path / "run")
    assert "resuming from step" in log(tmp_path / "run")
    assert f"cached in {tmp_path / 'cache'}, 0.001 GB at most" in log(tmp_path / "run")
    assert json.loads((tmp_path / "run/data.json").read_text())["store"] == url
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert S3Server.secret.encode() not in path.read_bytes(), path
            assert S3Server.access_key.encode() not in path.read_bytes(), path
    # An export can be written where the data came from.
    proxy.every = {}
    out = f"{proxy.url}/export"
    assert electra_scale(["export", str(tmp_path / "run"), out]) == 0, capsys.readouterr()
    assert f"{out}/discriminator" in capsys.readouterr().out
    names = {entry.name for entry in open_place(out).list()}
    assert {"discriminator/config.json", "discriminator/model.safetensors", "generator/config.json"} <= names
    assert electra_scale(["export", str(tmp_path / "run"), out]) == 2
    assert f"{out} already holds" in capsys.readouterr().err


def test_a_server_that_stops_for_ten_seconds_costs_only_the_time(
    gated: tuple[Gate, str],
    s3_server: S3Server,
    straight: list[dict[str, Any]],
    arguments: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    gate, url = gated
    process = start(ranks(2, *arguments(url)), tmp_path)
    try:
        wait_for_rows(tmp_path / "run", gate.steps, process)
        s3_server.stop()
        try:
            time.sleep(10)
            assert process.poll() is None, process.communicate()
        finally:
            s3_server.start()
        gate.open()
        out, err = process.communicate(timeout=200)
    finally:
        end(process)
    assert process.returncode == 0, out + err
    found = rows(tmp_path / "run")
    assert learned(found) == learned(straight)
    assert found[-1]["data/fetch_errors"] > 0
    assert "training continues from the cache; attempt 1, giving up in" in log(tmp_path / "run")
    assert "the store answers again" in log(tmp_path / "run")


def test_a_run_that_has_to_give_up_reports_the_reason_and_resumes_exactly(
    gated: tuple[Gate, str], straight: list[dict[str, Any]], arguments: Callable[..., list[str]], tmp_path: Path
) -> None:
    gate, url = gated
    command = ranks(2, *arguments(url, give_up_minutes=0.05))
    result = run(command, tmp_path)
    assert result.returncode != 0, result.stdout + result.stderr
    assert "giving up after 0.05 min and " in log(tmp_path / "run")
    lines = [line for line in result.stderr.splitlines() if "electra-scale: error:" in line]
    assert any("giving up" in line and gate.name in line for line in lines)
    assert "Traceback" not in result.stderr
    assert len(rows(tmp_path / "run")) == gate.steps
    gate.open()
    result = run(ranks(2, *arguments(url)), tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert learned(rows(tmp_path / "run")) == learned(straight)


def test_no_store_in_the_bucket_is_reported_in_one_line(s3: str, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, f"{s3}/nothing")
    command = plain("--config", path, "--run_dir", tmp_path / "run")
    result = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if "error" in line.lower()]
    assert len(lines) == 1
    assert f"{s3}/nothing has no manifest.json" in lines[0]
    assert not (tmp_path / "run").exists()
