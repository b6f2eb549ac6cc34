"""Peers of the build, each in a process of its own: ``build_contestants.py build NAME SPEC`` builds
and reports how long it took without its imports, ``count`` reports what it wrote.

SPEC is a JSON file: ``files`` (JSON Lines), ``tokenizer`` (tokenizer.json), ``out`` (a new folder), ``workers``,
``clean`` (whether text is cleaned as this project does it).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import report


def cleaner() -> Callable[[str], str]:
    """This project's cleaning of a text, for peers that are asked to do it too."""
    from data_pipeline.clean.cleaner import clean_text
    from data_pipeline.config import CleanConfig

    return partial(clean_text, config=CleanConfig())


def with_datasets(spec: dict[str, Any]) -> float:
    """``load_dataset``, ``map`` with the fast tokenizer in batches, ``save_to_disk``."""
    import datasets
    from transformers import PreTrainedTokenizerFast

    datasets.disable_progress_bars()
    start = time.perf_counter()
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=spec["tokenizer"])
    workers = spec["workers"]
    cache = str(Path(spec["out"]) / "cache")
    data = datasets.load_dataset("json", data_files=spec["files"], split="train", cache_dir=cache, num_proc=workers)
    if spec["clean"]:
        clean = cleaner()
        data = data.map(lambda text: {"text": clean(text)}, input_columns="text", num_proc=workers)

    def tokenize(batch: dict[str, list[str]]) -> dict[str, Any]:
        return tokenizer(
            batch["text"],
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )

    data = data.map(tokenize, batched=True, num_proc=workers, remove_columns=data.column_names)
    data.save_to_disk(str(Path(spec["out"]) / "data"))
    return time.perf_counter() - start


def with_datatrove(spec: dict[str, Any]) -> float:
    """JSON Lines reader and tokenizing writer in the local executor."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    start = time.perf_counter()
    out = Path(spec["out"])
    steps: list[Any] = [JsonlReader(str(Path(spec["files"][0]).parent), glob_pattern="*.jsonl")]
    if spec["clean"]:
        from datatrove.pipeline.formatters.base import BaseFormatter

        class Clean(BaseFormatter):
            """This project's cleaning as a step."""

            name = "clean"

            def format(self, text: str) -> str:
                return cleaner()(text)

        steps.append(Clean())
    steps.append(
        DocumentTokenizer(
            str(out / "data"),
            tokenizer_name_or_path=spec["tokenizer"],
            shuffle_documents=False,
            save_final_metadata=False,
        )
    )
    LocalPipelineExecutor(
        steps, tasks=spec["workers"], workers=spec["workers"], logging_dir=str(out / "logs"), start_method="fork"
    ).run()
    return time.perf_counter() - start


def count_datasets(out: Path) -> tuple[int, int]:
    """Documents and tokens that ``datasets`` wrote."""
    import datasets
    import pyarrow.compute as pc

    column = datasets.load_from_disk(str(out / "data")).data.column("input_ids")
    return len(column), int(pc.sum(pc.list_value_length(column)).as_py())


def count_datatrove(out: Path) -> tuple[int, int]:
    """Documents and tokens that datatrove wrote; it puts two special tokens around each document."""
    documents = sum(path.stat().st_size for path in (out / "data").rglob("*.ds.index")) // 8
    tokens = sum(path.stat().st_size for path in (out / "data").rglob("*.ds")) // 2
    return documents, tokens - 2 * documents


BUILD: dict[str, Callable[[dict[str, Any]], float]] = {"datasets": with_datasets, "datatrove": with_datatrove}
COUNT: dict[str, Callable[[Path], tuple[int, int]]] = {"datasets": count_datasets, "datatrove": count_datatrove}


def main() -> None:
    action, name, path = sys.argv[1:]
    spec = json.loads(Path(path).read_text())
    if action == "build":
        report(without_imports=BUILD[name](spec))
    else:
        documents, tokens = COUNT[name](Path(spec["out"]))
        report(documents=documents, tokens=tokens)


if __name__ == "__main__":
    main()
