"""Tokenizers of other kinds than WordPiece, from a folder to an export: byte-level BPE, and a large Unigram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from data_pipeline.build.build import build_store
from data_pipeline.config import BuildConfig, SourceConfig, TokenizerConfig
from data_pipeline.report.verify import verify_store
from data_pipeline.tokenize.roles import Roles
from electra_scale.cli import main
from electra_scale.data.store import Store, special_tokens
from tests.support.fixtures.runs import plain, rows, run, write_recipe
from tests.unit.data_pipeline.tokenize.test_roles import ROBERTA, byte_level, ends, save_folder

pytestmark = pytest.mark.slow

ENTRIES = 66_000
CHANGES = {
    "data.sequence_length": 64,
    "generator_warmup.steps": 0,
    "schedule": {"steps": 2, "warmup_steps": 1},
    "checkpoint.every": 2,
    "logging": {"every": 1, "evaluate_every": 2, "evaluate_samples": 4, "pairs": 4},
}


def large_unigram(roles: Roles) -> Tokenizer:
    """More entries than two bytes can count; the words of English come last."""
    known = [*map(chr, range(33, 127)), "▁", "▁the", "▁of", "▁return", "▁a", "▁in", "▁is", "ing", "ed"]
    made = [f"▁w{number}" for number in range(ENTRIES - len(known) - len(roles.names()))]
    pieces = [
        *((name, 0.0) for name in roles.names()),
        *((one, -12.0) for one in made),
        *((one, -5.0) for one in known),
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=roles.names().index("<unk>")))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(roles.names())
    ends(tokenizer, roles)
    return tokenizer


@pytest.mark.parametrize("kind", ["byte-level", "unigram"])
def test_a_folder_is_built_with_trained_on_and_exported(
    kind: str, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = byte_level(ROBERTA) if kind == "byte-level" else large_unigram(ROBERTA)
    theirs = save_folder(tmp_path / "given", tokenizer, ROBERTA)
    build_store(
        BuildConfig(
            out=str(tmp_path / "store"),
            sources=[SourceConfig(kind="jsonl", paths=[str(corpus / "docs.jsonl")])],
            tokenizer=TokenizerConfig(path=str(tmp_path / "given")),
            held_out=0.2,
            workers=1,
        )
    )
    assert verify_store(tmp_path / "store") == []
    store = Store(tmp_path / "store")
    special = special_tokens(store.tokenizer_dir)
    assert special.mask == theirs.mask_token_id
    shard = store.open(store.manifest.split("train")[0]).shard
    assert shard.ids.dtype == (np.uint16 if kind == "byte-level" else np.uint32)
    assert kind == "byte-level" or int(shard.ids.max()) > 1 << 16
    assert not np.isin(special.ids(), shard.ids).any()

    path = write_recipe(tmp_path, tmp_path / "store", **CHANGES)
    result = run(plain("--config", path, "--run_dir", tmp_path / "run"), tmp_path)
    assert result.returncode == 0, result.stderr
    assert "eval/pairs_swapped" in rows(tmp_path / "run")[-1], result.stdout
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    for network in ("discriminator", "generator"):
        exported = AutoTokenizer.from_pretrained(tmp_path / "out" / network)
        assert exported.mask_token == "<mask>"
        for text in ("Return the value of a cafe\u0301.", f"the {exported.mask_token} of  it\n", "\U0001f600 東京"):
            assert exported(text)["input_ids"] == theirs(text)["input_ids"]
    assert main(["try", str(tmp_path / "out"), "--masked", "Return the <mask> of it.", "--wrong", "The value."]) == 0
    assert "five best" in capsys.readouterr().out
