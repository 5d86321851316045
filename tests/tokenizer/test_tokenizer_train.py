"""A tokenizer trained here is used like any other, and fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.tokenizer.tokenizer import build_tokenizer
from neox.tokenizer.train import train_byte_level_bpe

ROOT = Path(__file__).parents[2]
TEXT = "Now is the winter of our discontent made glorious summer by this sun of York. " * 3


def tool(*arguments: str | Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/train_tokenizer.py", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tool_writes_what_preprocessing_reads(tmp_path):
    (tmp_path / "c.jsonl").write_text((json.dumps({"text": TEXT}) + "\n") * 5)
    output = tmp_path / "new" / "tokenizer.json"
    done = tool("--input", tmp_path / "c.jsonl", "--output", output, "--vocab-size", 300)
    assert done.returncode == 0, done.stderr
    assert f"{output} written: 300 ids" in done.stdout
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(output)))
    assert (tokenizer.vocab_size, tokenizer.eod) == (300, 0)
    assert tokenizer.fast is not None
    text = "<|endoftext|>the winter\n        of naïve sums <|padding|>"
    ids = tokenizer.encode_batch([text])[0].tolist()
    assert ids == tokenizer.encode(text) and tokenizer.decode(ids) == text
    assert ids[0] == 0 and ids[-1] == 1 and len(ids) < len(text)
    assert tokenizer.encode(" " * 24) == [277], "the first of the runs of spaces, which have the last ids"


def test_tool_says_what_is_wrong(tmp_path):
    (tmp_path / "c.jsonl").write_text("{\n")
    for arguments, complaint in (
        (("--input", tmp_path / "gone.jsonl"), "there is no such file"),
        (("--input", tmp_path / "c.jsonl"), "c.jsonl:1: it is not JSON"),
        (("--input", tmp_path / "c.jsonl", "--vocab-size", 100), "--vocab-size: 100 leaves no room"),
    ):
        done = tool(*arguments, "--output", tmp_path / "t.json")
        assert done.returncode == 2 and complaint in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "t.json").exists()


def test_smallest_vocabulary_is_told():
    with pytest.raises(ConfigError, match="take 281"):
        train_byte_level_bpe([TEXT], 281)
