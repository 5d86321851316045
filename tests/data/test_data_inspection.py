"""What token files are said to hold is what they hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data.inspection import blend, document_tokens, inspect_store, packed_sample
from neox.data.preprocess import PreprocessJob, preprocess
from neox.tokenizer.tokenizer import build_tokenizer

ROOT = Path(__file__).parents[2]
CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")
TEXTS = ["a", "bcd", "efg", "hijklmn", "o" * 100]


@pytest.fixture
def prefix(tmp_path) -> str:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return preprocess(PreprocessJob([str(tmp_path / "c.jsonl")], str(tmp_path / "out"), CHARACTERS)).prefixes[0]


def test_counts_and_lengths(prefix):
    found = inspect_store(prefix)
    assert (found.facts.documents, found.shortest, found.longest, found.empty) == (5, 1, 100, 0)
    assert {2**index: int(count) for index, count in enumerate(found.histogram) if count} == {1: 1, 2: 2, 4: 1, 64: 1}


def test_documents_and_packed_samples(prefix):
    assert [bytes(tokens.tolist()).decode() for tokens in document_tokens(prefix, [3, 0])] == [TEXTS[3], "a"]
    tokenizer = build_tokenizer(CHARACTERS)
    assert packed_sample(prefix, 0, 5, tokenizer) == "[[document 0]]a[[document 1]]bcd[[document 2]]e"
    assert packed_sample(prefix, 1, 5, tokenizer) == "[[...]]fg[[document 3]]hij"
    for wrong in (lambda: list(document_tokens(prefix, [5])), lambda: packed_sample(prefix, 23, 5, tokenizer)):
        with pytest.raises(ConfigError, match="there is no"):
            wrong()


def test_blend(prefix):
    assert blend([prefix, prefix], [3, 1], 228) == [(prefix, 0.75, 1.5), (prefix, 0.25, 0.5)]
    assert blend([prefix, prefix], None, None) == [(prefix, 0.5, 1.0)] * 2
    with pytest.raises(ConfigError, match="--weights: 2 stores need as many weights"):
        blend([prefix, prefix], [1], None)


def tool(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "tools/inspect_dataset.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_tool(prefix):
    done = tool(
        f"{prefix}.idx", "--check", "--documents", "1", "--sample", "0", "--tokenizer-type", "CharLevelTokenizer"
    )
    assert done.returncode == 0, done.stderr
    for expected in (
        "5 documents, 114 tokens (uint16)",
        "64 - 127",
        "every byte is as",
        "\nbcd\n",
        "[[document 4]]ooo",
    ):
        assert expected in done.stdout


def test_tool_finds_damage(prefix):
    content = numpy.fromfile(f"{prefix}.bin", dtype=numpy.uint16)
    content[3] += 1
    content.tofile(f"{prefix}.bin")
    assert tool(prefix).returncode == 0
    done = tool(prefix, "--check")
    assert done.returncode == 2 and "out_text_document.bin: its SHA-256 is" in done.stderr
    Path(f"{prefix}.json").unlink()
    assert "no manifest" in tool(prefix).stdout
    assert tool(prefix, "--check").returncode == 2
