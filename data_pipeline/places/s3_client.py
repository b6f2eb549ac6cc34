"""The one boto3 client of a process, made at first use from the AWS environment and files."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from data_pipeline.errors import UserError
from data_pipeline.extras import needs_extra
from data_pipeline.places.retries import attempts_from

with needs_extra("s3", "boto3", "s3://"):
    import boto3.session
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

_CONNECT_SECONDS = 10.0
_READ_SECONDS = 60.0
_CONNECTIONS = 64
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


@dataclass(frozen=True)
class Connection:
    """A client (safe for threads), the endpoint it talks to (without credentials), and tries per request."""

    client: Any
    endpoint: str
    attempts: int


_lock = threading.Lock()
_current: tuple[tuple[tuple[str, str], ...], Connection] | None = None


def _forget() -> None:
    # Sockets of the parent must not be shared, and its lock may have been held when it forked.
    global _lock, _current
    _lock = threading.Lock()
    _current = None


os.register_at_fork(after_in_child=_forget)


def connection() -> Connection:
    """This process's connection; a new one only if the environment's settings for S3 have changed since.

    Raises:
        UserError: a setting that can't be used, or a profile that does not exist.
    """
    global _current
    settings = tuple(sorted(item for item in os.environ.items() if item[0].startswith(("AWS_", "ELECTRA_SCALE_S3_"))))
    current = _current
    if current is not None and current[0] == settings:
        return current[1]
    with _lock:
        if _current is None or _current[0] != settings:
            _current = (settings, _connect())
        return _current[1]


def _connect() -> Connection:
    # At DEBUG botocore logs signed requests, which hold the access key.
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    read = _seconds()
    config = Config(
        # Retries are counted and reported by the caller, so the number of attempts is one setting.
        retries={"total_max_attempts": 1, "mode": "standard"},
        connect_timeout=min(_CONNECT_SECONDS, read),
        read_timeout=read,
        max_pool_connections=_CONNECTIONS,
        # Every write gives its SHA-256; checksums in trailers and on ranges are what other servers fail on.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        core = botocore.session.Session()
        # The other SDKs read AWS_REGION first, then AWS_DEFAULT_REGION; botocore reads only the latter.
        region = os.environ.get("AWS_REGION") or core.get_config_variable("region")
        session = boto3.session.Session(botocore_session=core, region_name=region)
        client = session.client("s3", config=config)
        asked = core.get_scoped_config().get("s3", {})
        style = asked.get("addressing_style") if isinstance(asked, dict) else None
        host = urlsplit(client.meta.endpoint_url).hostname or ""
        if style is None and not host.endswith(_AWS_HOSTS):
            # A server that is not Amazon's seldom has a DNS name for each bucket.
            client = session.client("s3", config=config.merge(Config(s3={"addressing_style": "path"})))
        configured = core.get_config_variable("max_attempts")
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            f"the AWS settings can't be used ({type(error).__name__}): "
            "check AWS_PROFILE, AWS_REGION, AWS_ENDPOINT_URL and the files in ~/.aws"
        ) from None
    text = os.environ.get("ELECTRA_SCALE_S3_ATTEMPTS")
    attempts = (
        attempts_from("ELECTRA_SCALE_S3_ATTEMPTS", text) if text else attempts_from("AWS_MAX_ATTEMPTS", configured)
    )
    return Connection(client, _without_user(client.meta.endpoint_url), attempts)


def _seconds() -> float:
    text = os.environ.get("ELECTRA_SCALE_S3_TIMEOUT")
    if not text:
        return _READ_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86400:
        raise UserError(f"ELECTRA_SCALE_S3_TIMEOUT is {text!r}: give seconds, more than 0 and at most 86400")
    return seconds


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
