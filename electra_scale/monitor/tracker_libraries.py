"""The libraries of trackers, each behind the same four calls: check, open, send a row, close."""

from __future__ import annotations

import os
import re
import secrets
import string
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, first_line
from data_pipeline.extras import needs_extra

_PROJECT = "electra-scale"
"""Where the library's own variable names no other project or experiment."""

_PLAIN = frozenset(string.ascii_letters + string.digits + "_-. /")
_BEFORE_HOST = re.compile(r"//[^/@\s]+@")
_MOST_OF_A_CALL = 100
_LONGEST_PARAMETER = 500
_FINISH_SECONDS = 20.0


@dataclass(frozen=True)
class Opened:
    """A run in a tracker. ``keys`` finds it again after a resume; ``where`` is for people.

    ``last_step`` is that of the newest row which the tracker has, None if it cannot tell.
    """

    keys: dict[str, str]
    where: str
    continued: bool
    last_step: int | None = None


class TrackerLibrary(ABC):
    """One run in a tracker. Every method may wait for a network, and may raise what the library does."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """``folder``: the run folder, after which the tracker's run is named. ``config``: settings by dotted names."""
        self.folder = folder
        self.name = folder.resolve().name
        self.config = config

    @staticmethod
    @abstractmethod
    def check() -> None:
        """Raise UserError where the library is missing, or not set up on this machine. Asks no network."""

    @abstractmethod
    def open(self, keys: Mapping[str, str]) -> Opened:
        """Continue the run with these keys, if there is one, or begin one."""

    @abstractmethod
    def row(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        """Send the values of a step."""

    @abstractmethod
    def close(self, state: str) -> None:
        """End the tracker's run, in the state ``finished``, ``stopped`` or ``failed``."""


class Wandb(TrackerLibrary):
    """Weights & Biases; its variables (WANDB_PROJECT, WANDB_MODE, WANDB_BASE_URL ...) hold as everywhere."""

    @staticmethod
    def check() -> None:
        with _installed("wandb"):
            import wandb
        if wandb.setup().settings.mode != "online":
            return
        try:
            # Whether the account is good is a question to the network, which may be away now and come back.
            wandb.login(verify=False)
        except wandb.errors.Error as error:
            raise UserError(
                f"logging.tracker wandb has no account to send to ({first_line(error)}); run wandb login, or set "
                "WANDB_MODE=offline"
            ) from error

    def open(self, keys: Mapping[str, str]) -> Opened:
        import wandb

        project = keys.get("project") or os.environ.get("WANDB_PROJECT") or _PROJECT
        number = keys.get("id") or secrets.token_hex(4)
        self._run = wandb.init(
            project=project,
            id=number,
            name=self.name,
            resume="allow",
            dir=str(self.folder),
            config=dict(self.config),
            # It must not stand between a run and its output, nor keep a run that is over waiting for a network.
            settings=wandb.Settings(console="off", silent=True, finish_timeout=_FINISH_SECONDS),
        )
        where = self._run.url or f"project {project}, run {number}, in {self.folder / 'wandb'}"
        return Opened({"project": project, "id": number}, where, continued=bool(keys))

    def row(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._run.log({"phase": phase, **values}, step=step)

    def close(self, state: str) -> None:
        self._run.finish(exit_code=int(state == "failed"))


class Mlflow(TrackerLibrary):
    """MLflow, through its client; MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME hold as everywhere."""

    @staticmethod
    def check() -> None:
        with _installed("mlflow"):
            import mlflow
            from mlflow.exceptions import MlflowException
        place = without_passwords(mlflow.get_tracking_uri())
        try:
            client = mlflow.MlflowClient()
            # A store of files or a database is looked at; a server may be away now and come back.
            if not place.startswith(("http:", "https:", "databricks")):
                client.search_experiments(max_results=1)
        except (MlflowException, ImportError) as error:
            raise UserError(
                f"logging.tracker mlflow cannot use the tracking store {place!r} ({first_line(error)}); set "
                "MLFLOW_TRACKING_URI to your server, or install what that store needs"
            ) from error

    def open(self, keys: Mapping[str, str]) -> Opened:
        import mlflow
        from mlflow.entities import Param

        place = without_passwords(mlflow.get_tracking_uri())
        self._client = mlflow.MlflowClient()
        self._phase = ""
        run: Any = self._existing(keys["id"]) if keys.get("place") == place else None
        continued = run is not None
        last = self._last_step(keys["id"]) if continued else 0
        if continued:
            self._client.update_run(keys["id"], status="RUNNING")
        else:
            experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self._client.create_experiment(experiment)
            run = self._client.create_run(number, run_name=self.name)
        self._run: str = run.info.run_id
        # A parameter of MLflow never changes, so what a resume has changed is a tag.
        config = {_plain(key): str(value)[:_LONGEST_PARAMETER] for key, value in self.config.items()}
        known = run.data.params
        new = [Param(key, value) for key, value in config.items() if key not in known]
        for first in range(0, len(new), _MOST_OF_A_CALL):
            self._client.log_batch(self._run, params=new[first : first + _MOST_OF_A_CALL])
        for key, value in config.items():
            if key in known and known[key] != value:
                self._client.set_tag(self._run, f"changed.{key}", value)
        return Opened({"place": place, "id": self._run}, f"{place}, run {self._run}", continued, last)

    def _existing(self, run: str) -> Any:
        """The tracker's run, None if somebody has deleted it."""
        from mlflow.exceptions import MlflowException

        try:
            found = self._client.get_run(run)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return found if found.info.lifecycle_stage == "active" else None

    def _last_step(self, run: str) -> int:
        """Every row of training has the learning rate."""
        return max((point.step for point in self._client.get_metric_history(run, "optim/lr")), default=0)

    def row(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if phase != self._phase:
            self._client.set_tag(self._run, "phase", phase)
            self._phase = phase
        now = int(1000 * time.time())
        points = [Metric(_plain(name), value, now, step) for name, value in values.items()]
        for first in range(0, len(points), _MOST_OF_A_CALL):
            self._client.log_batch(self._run, metrics=points[first : first + _MOST_OF_A_CALL])

    def close(self, state: str) -> None:
        status = {"finished": "FINISHED", "stopped": "KILLED"}.get(state, "FAILED")
        self._client.set_terminated(self._run, status)


class Trackio(TrackerLibrary):
    """trackio: a local file, or a Space or server that its variables name (TRACKIO_DIR, TRACKIO_SPACE_ID ...)."""

    @staticmethod
    def check() -> None:
        with _installed("trackio"):
            import trackio  # noqa: F401

    def open(self, keys: Mapping[str, str]) -> Opened:
        import trackio

        project = keys.get("project") or os.environ.get("TRACKIO_PROJECT") or _PROJECT
        # It finds a run by its name, so runs of other folders must not have the same.
        name = keys.get("name") or f"{self.name}-{secrets.token_hex(4)}"
        self._run = trackio.init(
            project=project,
            name=name,
            resume="allow",
            config=dict(self.config),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        return Opened({"project": project, "name": name}, f"project {project}, run {name}", continued=bool(keys))

    def row(self, step: int, phase: str, values: Mapping[str, float]) -> None:
        self._run.log({"phase": phase, **values}, step=step)

    def close(self, state: str) -> None:
        self._run.finish()


LIBRARIES: dict[str, type[TrackerLibrary]] = {"trackio": Trackio, "wandb": Wandb, "mlflow": Mlflow}
"""By the name in ``logging.tracker``."""


def without_passwords(text: str) -> str:
    """A text without what stands before the hosts of its addresses."""
    return _BEFORE_HOST.sub("//", text)


def _installed(name: str) -> Any:
    return needs_extra(name, name, f"logging.tracker {name}", "set logging.tracker to null")


def _plain(name: str) -> str:
    """A name that MLflow takes, another one for each name: labels of sources may have any character."""
    parts = "".join(c if c in _PLAIN else f"_{ord(c):x}_" for c in name).split("/")
    return "/".join(part if part.strip(".") else f"_{len(part)}_" for part in parts)
