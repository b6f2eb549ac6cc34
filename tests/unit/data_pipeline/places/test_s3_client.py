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


def signed_region() -> str:
    url: str = connection().client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "key"})
    return url.partition("X-Amz-Credential=key%2F")[2].split("%2F")[1]


def test_the_region_comes_from_the_variables_and_then_from_the_profile(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(
        "[default]\nregion = eu-west-1\ns3 =\n    signature_version = s3v4\n[profile p]\nregion = eu-west-2\n"
    )
    environment.setenv("AWS_CONFIG_FILE", str(config))
    environment.setenv("AWS_DEFAULT_REGION", "us-west-2")
    for region in ("eu-central-1", "us-west-2", "eu-west-1"):
        assert signed_region() == connection().client.meta.region_name == region
        environment.delenv("AWS_REGION", raising=False)
        if region == "us-west-2":
            environment.delenv("AWS_DEFAULT_REGION")
    environment.setenv("AWS_PROFILE", "p")
    assert connection().client.meta.region_name == "eu-west-2"
    environment.setenv("AWS_REGION", "ap-south-1")
    assert connection().client.meta.region_name == "ap-south-1"
    environment.setenv("AWS_REGION", "")
    assert connection().client.meta.region_name == "eu-west-2"


def test_every_variable_that_a_page_or_an_error_names_has_an_effect(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text(
        "[profile mine]\naws_access_key_id = mine\naws_secret_access_key = x\nendpoint_url = https://mine.example\n"
        "max_attempts = 4\nca_bundle = /of/profile\n"
    )
    (tmp_path / "credentials").write_text("[mine2]\naws_access_key_id = mine2\naws_secret_access_key = x\n")
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    environment.setenv("AWS_CA_BUNDLE", "/of/variable")
    assert connection().client._endpoint.http_session._verify == "/of/variable"
    for name in ("AWS_CA_BUNDLE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        environment.delenv(name)
    environment.setenv("AWS_PROFILE", "mine")
    link = connection()
    assert link.client._request_signer._credentials.access_key == "mine"
    assert link.endpoint == "https://mine.example"
    assert link.attempts == 4
    assert link.client._endpoint.http_session._verify == "/of/profile"
    environment.setenv("AWS_ENDPOINT_URL", "https://all.example")
    environment.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert connection().endpoint == "https://s3.example"
    environment.setenv("AWS_PROFILE", "mine2")
    assert connection().client._request_signer._credentials.access_key == "mine2"
    environment.setenv("AWS_ACCESS_KEY_ID", "variable")
    environment.setenv("AWS_SECRET_ACCESS_KEY", "x")
    environment.setenv("AWS_SESSION_TOKEN", "token")
    credentials = connection().client._request_signer._credentials
    assert (credentials.access_key, credentials.token) == ("variable", "token")
