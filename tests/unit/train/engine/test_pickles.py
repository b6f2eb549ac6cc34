"""What a file of a checkpoint would call is known before it is loaded, and nothing but the known is called."""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address

from data_pipeline.errors import OneRankError, UserError
from electra_scale.cluster.ranks import Alone
from electra_scale.train.checkpoint import checksums
from electra_scale.train.engine import pickles

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

ALONE = Alone(torch.device("cpu"))

GOOD: dict[str, Any] = {
    "weights": OrderedDict(a=torch.ones(3), b=torch.zeros(2, dtype=torch.bfloat16)),
    "scaler": LossScaler(1.0),
    "stage": ZeroStageEnum.gradients,
    "where": fragment_address(3, 4),
    "shapes": torch.Size([1, 2]),
}


class Planted:
    """Its pickle makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def rewritten(path: Path, program: bytes, member: str = "data.pkl", again: bool = False) -> None:
    """A file of torch.save with another program in it."""
    torch.save(GOOD, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, program if name.endswith(f"/{member}") and not again else data)
        root = next(iter(content)).split("/")[0]
        if again or member != "data.pkl":
            archive.writestr(f"{root}/{member}", program)


def mkdir(marker: Path, protocol: int) -> bytes:
    return pickle.dumps(Planted(marker), protocol)


def hidden(marker: Path) -> bytes:
    """The names come from the memo, and others that are known stand before the call."""
    name, text = b"\x8c\x05posix\x94\x8c\x05mkdir\x94", str(marker).encode()
    known = b"\x8c\x0bcollections\x8c\x0bOrderedDict"
    return (
        b"\x80\x04" + name + known + b"00" + b"00" + b"h\x00h\x01" + b"\x93\x8c" + bytes([len(text)]) + text + b"\x85R."
    )


def archived(path: Path, marker: Path) -> None:
    """The format before torch 0.1.10: pickles in a tar."""
    with tarfile.open(path, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            data = mkdir(marker, 2)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


PLANTED: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "torch.save": (lambda path, marker: torch.save(Planted(marker), path), "posix.mkdir"),
    "within": (lambda path, marker: torch.save({**GOOD, "more": [Planted(marker)]}, path), "posix.mkdir"),
    "no zip": (
        lambda path, marker: torch.save({**GOOD, "x": Planted(marker)}, path, _use_new_zipfile_serialization=False),
        "posix.mkdir",
    ),
    "pickle 2": (lambda path, marker: path.write_bytes(mkdir(marker, 2)), "posix.mkdir|cannot be listed"),
    "pickle 4": (lambda path, marker: path.write_bytes(mkdir(marker, 4)), "posix.mkdir|cannot be listed"),
    "pickle 0": (lambda path, marker: path.write_bytes(mkdir(marker, 0)), "posix.mkdir|cannot be listed"),
    "other program": (lambda path, marker: rewritten(path, mkdir(marker, 2)), "posix.mkdir"),
    "protocol 4": (lambda path, marker: rewritten(path, mkdir(marker, 4)), r"posix.mkdir \(a name made while"),
    "hidden names": (lambda path, marker: rewritten(path, hidden(marker)), "a name made while"),
    "instance": (
        lambda path, marker: rewritten(path, b"(V" + str(marker).encode() + b"\niposix\nmkdir\n."),
        "posix.mkdir",
    ),
    "registry": (lambda path, marker: rewritten(path, b"\x80\x02\x82\x01)R."), "extension registry"),
    "attribute": (
        lambda path, marker: rewritten(
            path, b"\x80\x02c__builtin__\ngetattr\nccollections\nOrderedDict\nX\x04\0\0\0copy\x86R."
        ),
        "__builtin__.getattr",
    ),
    "dotted": (lambda path, marker: rewritten(path, b"ctorch\nserialization.os.mkdir\n)R."), "serialization.os.mkdir"),
    "safe for torch, not ours": (
        lambda path, marker: rewritten(path, b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n."),
        "_rebuild_from_type_v2",
    ),
    "twice": (lambda path, marker: rewritten(path, mkdir(marker, 2), again=True), "2 pickles"),
    "torchscript": (lambda path, marker: rewritten(path, mkdir(marker, 2), member="constants.pkl"), "2 pickles"),
    "tar": (archived, "cannot be listed"),
    "cut": (lambda path, marker: path.write_bytes(mkdir(marker, 2)[:-1]), "cannot be listed"),
    "empty": (lambda path, marker: path.write_bytes(b""), "cannot be listed"),
    "text": (lambda path, marker: path.write_text("no pickle at all"), "cannot be listed"),
}


def listed(folder: Path) -> None:
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*.pt")]
    checksums.write_list(folder, checksums.sums_of(folder, names))


@pytest.mark.parametrize("kind", PLANTED)
def test_a_file_that_would_call_anything_else_is_refused_by_name_and_nothing_is_run(kind: str, tmp_path: Path) -> None:
    plant, expected = PLANTED[kind]
    folder, marker = tmp_path / "step", tmp_path / "marker"
    folder.mkdir()
    torch.save(GOOD, folder / "good.pt")
    plant(folder / "sampler.pt", marker)
    listed(folder)
    with pytest.raises(UserError, match=rf"{folder} is refused .* sampler.pt .*({expected})"):
        pickles.refuse_unsafe(folder, ALONE)
    # If the listing were deceived, torch would still not run it.
    with suppress(OneRankError, RuntimeError, EOFError, ValueError), pickles.restricted(folder):
        torch.load(folder / "sampler.pt", weights_only=False)
    assert not marker.exists()


def test_what_checkpoints_hold_passes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Some set this for other programs.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save(GOOD, tmp_path / "zip.pt")
    torch.save(GOOD, tmp_path / "zero_pp_rank_0", _use_new_zipfile_serialization=False)
    listed(tmp_path)
    checksums.write_list(tmp_path, checksums.sums_of(tmp_path, ["zip.pt", "zero_pp_rank_0"]))
    pickles.refuse_unsafe(tmp_path, ALONE)
    for name in ("zip.pt", "zero_pp_rank_0"):
        with pickles.restricted(tmp_path):
            found = torch.load(tmp_path / name, weights_only=False)
        assert found["stage"] is ZeroStageEnum.gradients
        assert found["where"] == fragment_address(3, 4)
        assert torch.equal(found["weights"]["b"], GOOD["weights"]["b"])
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_a_block_inside_another_one_leaves_that_one_as_it_is(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save(GOOD, tmp_path / "sampler.pt")
    with pickles.restricted(tmp_path):
        with pickles.restricted(tmp_path):
            torch.load(tmp_path / "sampler.pt", weights_only=False)
        assert isinstance(torch.load(tmp_path / "sampler.pt", weights_only=False)["scaler"], LossScaler)
        torch.save(Planted(tmp_path / "marker"), tmp_path / "planted.pt")
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / "planted.pt", weights_only=False)
    assert set(torch.serialization.get_safe_globals()) == before
    assert not (tmp_path / "marker").exists()


def test_a_class_that_is_known_cannot_be_changed_by_a_file(tmp_path: Path) -> None:
    program = b"\x80\x02cdeepspeed.utils.tensor_fragment\nfragment_address\nN}X\x04\0\0\0evilK\x01s\x86b."
    rewritten(tmp_path / "sampler.pt", program)
    assert [code.name for code, _, _ in pickletools.genops(program)][-2] == "BUILD"
    with pytest.raises(OneRankError, match="torch does not load it"), pickles.restricted(tmp_path):
        torch.load(tmp_path / "sampler.pt", weights_only=False)
    assert not hasattr(fragment_address, "evil")


@pytest.mark.parametrize(
    "name", ["zero_pp_rank_7_mp_rank_00_optim_states.pt", "mp_rank_01_more", "layer_00.pt", "x/y.pt"]
)
def test_a_file_that_no_save_has_listed_is_refused_although_it_looks_good(name: str, tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "sampler.pt")
    listed(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).symlink_to(tmp_path / "sampler.pt")
    with pytest.raises(UserError, match=rf"{name} is not in checksums.json"):
        pickles.refuse_unsafe(tmp_path, ALONE)


def test_files_that_nobody_loads_are_nobody_s_business(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "sampler.pt")
    listed(tmp_path)
    (tmp_path / "notes.txt").write_text("the good one")
    (tmp_path / ".sampler.pt.12.tmp").write_bytes(mkdir(tmp_path / "marker", 2))
    (tmp_path / "universal.partial-x").mkdir()
    (tmp_path / "universal.partial-x/fp32.pt").write_bytes(b"half")
    pickles.refuse_unsafe(tmp_path, ALONE)


def test_ranks_share_the_files_and_all_hear_of_the_one(tmp_path: Path) -> None:
    for number in range(4):
        torch.save(GOOD, tmp_path / f"{number}.pt")
    torch.save(Planted(tmp_path / "marker"), tmp_path / "2.pt")
    listed(tmp_path)
    found = [pickles._reason(tmp_path, rank, 3) for rank in range(3)]
    assert [bool(reason) for reason in found] == [False, False, True]
