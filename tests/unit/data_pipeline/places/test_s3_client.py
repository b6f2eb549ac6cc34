"""The client is made from the AWS settings; no request is made here."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from data_pipeline.places.retries import ATTEMPTS, Retries
from data_pipeline.places.s3_client import connection
from tests.support.fixtures.s3 import use_environment

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "key",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    use_environment(monkeypatch, ENVIRONMENT)
    return monkeypatch


def signed_host() -> str:
    url: str = connection().client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    return url.partition("?")[0]


def test_aws_itself_is_reached_by_the_buckets_host(environment: pytest.MonkeyPatch) -> None:
    assert signed_host().startswith("https://bucket.s3.")
    assert signed_host().endswith(".amazonaws.com/key")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_another_endpoint_is_reached_by_path(environment: pytest.MonkeyPatch, variable: str) -> None:
    environment.setenv(variable, "https://store.example:9000")
    assert signed_host() == "https://store.example:9000/bucket/key"
    assert connection().endpoint == "https://store.example:9000"


def test_the_addressing_that_the_config_file_asks_for_is_kept(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("[default]\ns3 =\n    addressing_style = virtual\n")
    environment.setenv("AWS_CONFIG_FILE", str(config))
    environment.setenv("AWS_ENDPOINT_URL", "https://store.example:9000")
    assert signed_host() == "https://bucket.store.example:9000/key"


def test_an_endpoint_is_shown_without_a_password(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("AWS_ENDPOINT_URL", "https://user:password@store.example")
    assert connection().endpoint == "https://store.example"


def test_attempts_are_one_setting(environment: pytest.MonkeyPatch) -> None:
    assert connection().attempts == ATTEMPTS == 6
    environment.setenv("AWS_MAX_ATTEMPTS", "3")
    assert connection().attempts == 3
    environment.setenv("ELECTRA_SCALE_S3_ATTEMPTS", "9")
    assert connection().attempts == 9
    # Nothing is tried again underneath, where it would not be counted.
    assert connection().client.meta.config.retries["total_max_attempts"] == 1


def test_a_process_has_one_client_and_its_child_another(environment: pytest.MonkeyPatch) -> None:
    mine = connection()
    assert connection() is mine
    child = os.fork()
    if child == 0:
        os._exit(0 if connection() is not mine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_waiting_is_bounded_and_leaves_the_seeded_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("data_pipeline.places.retries.time.sleep", slept.append)
    state = random.getstate()
    waits = [Retries().wait(failures) for failures in range(1, 100)]
    assert waits == slept
    assert all(0 <= wait <= min(20, 0.2 * 3**i) for i, wait in enumerate(waits))
    assert random.getstate() == state
    # Two processes that failed together don't come back together.
    assert Retries().wait(9) != Retries().wait(9)
