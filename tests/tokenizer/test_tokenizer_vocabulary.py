"""The size of a vocabulary without its tokenizer: quick, and with errors that say what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.tokenizer.vocabulary import read_vocab_size, sentencepiece_size

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("end, expected", [({"<|endoftext|>": 3}, 4), ({}, 4)])
def test_gpt2_vocabulary_counts_the_end_token_once(tmp_path, end, expected):
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps({"a": 0, "b": 1, "ab": 2} | end))
    assert read_vocab_size(TokenizerConfig(vocab_file=str(path))) == expected


def test_missing_file_names_it_and_the_command_that_brings_one():
    with pytest.raises(ConfigError, match=r"nowhere/vocab\.json.*python tools/prepare_data\.py shakespeare"):
        read_vocab_size(TokenizerConfig(vocab_file="nowhere/vocab.json"))


def test_missing_key_names_it():
    with pytest.raises(ConfigError, match="vocab_file: tokenizer_type HFTokenizer needs it"):
        read_vocab_size(TokenizerConfig(tokenizer_type="HFTokenizer"))


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[1, 2]", "does not map tokens to ids"),
        (b'{"a": "b"}', "does not map tokens to ids"),
        (b'{"a": true}', "does not map tokens to ids"),
        (b"{}", "does not map tokens to ids"),
        (b'{"a": 0, "b": 5}', "does not number its tokens from 0 to 1"),
    ],
)
def test_damaged_gpt2_vocabulary(tmp_path, content, complaint):
    path = tmp_path / "vocab.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"vocab.json {complaint}"):
        read_vocab_size(TokenizerConfig(vocab_file=str(path)))


@pytest.mark.parametrize(
    "content", ["{}", "[]", '{"model": 3}', '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": "b"}}}']
)
def test_damaged_tokenizer_json(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json is not a tokenizer\.json"):
        read_vocab_size(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(path)))


def test_unigram_vocabulary_is_a_list(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": [["a", -1.0], ["b", -2.0]]}, "added_tokens": None}))
    assert read_vocab_size(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(path))) == 2


def test_characters_need_no_file():
    assert read_vocab_size(TokenizerConfig(tokenizer_type="CharLevelTokenizer")) == 512


@pytest.mark.parametrize("name, size", [("gpt2", 50_257), ("o200k_base", 200_019)])
def test_tiktoken_encodings_by_name_need_no_download(name, size):
    assert read_vocab_size(TokenizerConfig(tokenizer_type="TiktokenTokenizer", vocab_file=name)) == size


@pytest.mark.parametrize("content", [b"", b"\x0a\x7fshort", b"plain text, not a model\n", b"\x0a\x80", b"\x0f"])
def test_damaged_sentencepiece_model(tmp_path, content):
    path = tmp_path / "small.model"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"small\.model is not a"):
        sentencepiece_size(path)


def test_a_plan_needs_no_tokenizer_library():
    heavy = ["tokenizers", "torch", "numpy", "sentencepiece", "tiktoken"]
    code = f"import sys, neox.tokenizer.vocabulary; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
