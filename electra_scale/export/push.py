"""A model's folder goes in, a repository of the Hugging Face hub comes out; private unless asked otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars, validate_repo_id

from data_pipeline.errors import UserError, first_line
from electra_scale.export.card import CARD

_WEIGHTS = "*.safetensors"
_OF_A_MODEL = (
    CARD,
    "config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
)
"""Besides weights. What a training leaves beside them (its arguments, optimizer, logs) is nobody else's business."""


@dataclass(frozen=True)
class Parcel:
    """What is uploaded of a folder, and what stays behind."""

    folder: Path
    files: list[str]
    left: list[str]

    @property
    def bytes(self) -> int:
        return sum((self.folder / name).stat().st_size for name in self.files)


def push(folder: Path, repository: str, public: bool, say: Callable[[str], None]) -> str:
    """Upload a model to a repository of the hub, which is made if it is not there. Returns its address.

    What is uploaded, and what is not, is said before. A repository that exists keeps its visibility; one that is
    public is written to only if ``public``.

    Raises:
        UserError: the folder holds no model or two, the hub is switched off (HF_HUB_OFFLINE), there is no token, or the
            hub refuses or does not answer.
    """
    parcel = parcel_of(folder)
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise UserError(f"{repository!r} is no name of a repository ({first_line(error)}); give OWNER/NAME") from error
    if "/" not in repository:
        raise UserError(f"{repository!r} has no owner; give OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise UserError("HF_HUB_OFFLINE is set, so nothing is sent to the hub; unset it to push")
    if get_token() is None:
        raise UserError("there is no token of the hub; run hf auth login, or set HF_TOKEN to one that may write")
    kept = f"; {len(parcel.left)} other files stay here, such as {parcel.left[0]}" if parcel.left else ""
    say(
        f"uploading {len(parcel.files)} files ({parcel.bytes / 1e6:.1f} MB) of {folder} to {repository} at "
        f"{constants.ENDPOINT}: {', '.join(parcel.files)}{kept}"
    )
    if CARD not in parcel.files:
        say(f"warning: {folder} has no {CARD}, so the repository gets no model card")
    disable_progress_bars()
    try:
        return _send(parcel, repository, public)
    except UserError:
        raise
    except HfHubHTTPError as error:
        answer = error.server_message or first_line(error)
        status = error.response.status_code
        advice = "check that the token may write there (hf auth whoami)" if status in (401, 403) else "try again"
        raise UserError(f"the hub refuses {repository} ({status}: {answer}); {advice}") from error
    except Exception as error:  # the errors of its HTTP client and of the system
        raise UserError(
            f"{constants.ENDPOINT} cannot be reached or did not take {repository} ({first_line(error)}); try again"
        ) from error


def parcel_of(folder: Path) -> Parcel:
    """The files of a folder that make a model. Raises UserError if it holds none, or an export's two."""
    networks = [name for name in ("discriminator", "generator") if (folder / name / "config.json").is_file()]
    if networks:
        raise UserError(
            f"{folder} holds {' and '.join(networks)}, and a repository one model; push {folder / networks[0]}"
        )
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    files = [name for name in names if name in _OF_A_MODEL or ("/" not in name and Path(name).match(_WEIGHTS))]
    if "config.json" not in files or not any(Path(name).match(_WEIGHTS) for name in files):
        raise UserError(
            f"{folder} holds no model of transformers (config.json and safetensors); give a network's folder of an "
            "export, or a fine-tuned model's"
        )
    return Parcel(folder, files, [name for name in names if name not in files])


def _send(parcel: Parcel, repository: str, public: bool) -> str:
    api = HfApi()
    try:
        found = api.model_info(repository)
    except RepositoryNotFoundError:
        api.create_repo(repository, private=not public, exist_ok=True)
    else:
        if not found.private and not public:
            raise UserError(
                f"{repository} is public, so everybody would see what is pushed; give --public, or choose another"
            )
    api.upload_folder(
        repo_id=repository,
        folder_path=str(parcel.folder),
        allow_patterns=parcel.files,
        commit_message="Upload model",
    )
    return f"{constants.ENDPOINT}/{repository}"
