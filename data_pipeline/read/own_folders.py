"""Recognizing folders that this program made: what lies in them was made of text, or of text already read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection

from data_pipeline.store.manifest import MANIFEST_NAME, WORK_FOLDER

# Names of files by which a folder is recognized, and the folders in which some of them lie.
SIGNS = frozenset(
    {MANIFEST_NAME, "recipe.yaml", "deepspeed.json", "metrics.jsonl", "checkpoints", "config.json", "model.safetensors"}
    | {f"{WORK_FOLDER}/lock", f"{WORK_FOLDER}/claim.json", f"{WORK_FOLDER}/finished.json"}
)
_CACHED = re.compile(r"[0-9a-f]{64}\.(arrow|part)")


def made_by_us(names: Collection[str], has: Callable[[str], bool], read: Callable[[str], bytes | None]) -> str | None:
    """What a folder is, such as ``a store``, if this program made it; None if it did not.

    Args:
        names: names of the files and folders in it.
        has: whether there is a file, by its name relative to the folder.
        read: a file's content, None if it can't be read.
    """
    if WORK_FOLDER in names and any(has(name) for name in SIGNS if name.startswith(f"{WORK_FOLDER}/")):
        return "a store of electra-data"
    if MANIFEST_NAME in names and _is_manifest(read(MANIFEST_NAME)):
        return "a store of electra-data"
    if "recipe.yaml" in names and not {"deepspeed.json", "metrics.jsonl", "checkpoints"}.isdisjoint(names):
        return "a run folder of electra-scale"
    if {"config.json", "model.safetensors"} <= set(names):
        return "a model"
    shown = [name for name in names if not name.startswith(".")]
    if ".lock" in names and shown and all(_CACHED.fullmatch(name) for name in shown):
        return "a cache of electra-scale"
    return None


def _is_manifest(data: bytes | None) -> bool:
    try:
        content = json.loads(data or b"null")
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and {"fingerprint", "shards", "token_counts", "tokenizer"} <= content.keys()
