"""Read a tokenizer's vocabulary file: how many ids there are. Knows nothing about encoding, and imports no tokenizer library,
so that a plan on a login node can count parameters at once."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.tokenizer.encodings import END_OF_DOCUMENT, TIKTOKEN_ENCODINGS

# gpt-neox's character tokenizer: one id for each byte, padded to 512
CHARACTER_VOCAB_SIZE = 512

# what a folder of a Hugging Face tokenizer is read by: the kind, and the files that must be there, by key; the first that fits.
# The last of a kind is the one that transformers writes
FOLDER_KINDS: tuple[tuple[str, dict[str, str]], ...] = (
    ("HFTokenizer", {"vocab_file": "tokenizer.json"}),
    ("GPT2BPETokenizer", {"vocab_file": "vocab.json", "merge_file": "merges.txt"}),
    ("SPMTokenizer", {"vocab_file": "model.spm"}),
    ("SPMTokenizer", {"vocab_file": "tokenizer.model"}),
)
FOLDER_CONFIG = "tokenizer_config.json"

SAMPLE_FILES = "python tools/prepare_data.py shakespeare"


def read_vocab_size(config: TokenizerConfig) -> int:
    """The number of ids of a tokenizer, its special tokens included, before any padding.

    Raises ConfigError that names the file where it is missing or is not what the tokenizer type reads.
    """
    config = located(config)
    return READERS[config.tokenizer_type](config)


def located(config: TokenizerConfig) -> TokenizerConfig:
    """The tokenizer by its kind and files, where `vocab_file` is the folder of a Hugging Face tokenizer; else as it is."""
    if not _is_folder(config):
        return config
    folder = Path(config.vocab_file)
    for kind, names in FOLDER_KINDS:
        files = {key: str(folder / name) for key, name in names.items()}
        if all(Path(file).is_file() for file in files.values()):
            return config.model_copy(update={"tokenizer_type": kind} | files)
    known = ", ".join(" with ".join(names.values()) for _, names in FOLDER_KINDS)
    raise ConfigError(f"vocab_file: the folder {folder} has no tokenizer: none of {known}")


def declared_end(config: TokenizerConfig) -> str | None:
    """The token that ends a text by the tokenizer_config.json of a folder; None where nothing says so."""
    path = Path(config.vocab_file or "") / FOLDER_CONFIG
    if not _is_folder(config) or not path.is_file():
        return None
    content = read_json(path, "vocab_file")
    token = content.get("eos_token") if isinstance(content, dict) else None
    return token.get("content") if isinstance(token, dict) else token


def _is_folder(config: TokenizerConfig) -> bool:
    return config.tokenizer_type == "HFTokenizer" and config.vocab_file is not None and Path(config.vocab_file).is_dir()


def required_file(config: TokenizerConfig, key: str) -> Path:
    """The file that a key of the tokenizer section names; ConfigError where there is none."""
    name = getattr(config, key)
    if name is None:
        raise ConfigError(f"{key}: tokenizer_type {config.tokenizer_type} needs it")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"{key}: there is no file {name} (`{SAMPLE_FILES}` brings the GPT-2 files into data/)")
    return path


def file_hashes(config: TokenizerConfig) -> dict[str, str | None]:
    """SHA-256 of the tokenizer's files by key, or what stands there where it is no file (the name of an encoding)."""
    config = located(config)
    names = {"vocab_file": config.vocab_file, "merge_file": config.merge_file}
    return {
        key: hashlib.sha256(Path(name).read_bytes()).hexdigest() if name and Path(name).is_file() else name
        for key, name in names.items()
    }


def read_json(path: Path, key: str) -> Any:
    """The value in a JSON file; ConfigError that names the file where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{key}: {path} is not JSON ({error})") from error


def read_gpt2_vocabulary(config: TokenizerConfig) -> dict[str, int]:
    """Token -> id of a GPT-2 vocab.json, with the end-of-document token as the next id where the file has none."""
    path = required_file(config, "vocab_file")
    vocabulary = read_json(path, "vocab_file")
    if not (isinstance(vocabulary, dict) and vocabulary and all(type(index) is int for index in vocabulary.values())):
        raise ConfigError(f"vocab_file: {path} does not map tokens to ids, as the vocab.json of GPT-2 does")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ConfigError(f"vocab_file: {path} does not number its tokens from 0 to {len(vocabulary) - 1}")
    vocabulary.setdefault(END_OF_DOCUMENT, len(vocabulary))
    return vocabulary


def read_tiktoken_ranks(path: Path) -> dict[bytes, int]:
    """Token -> rank of a .tiktoken file: a base64 token and its rank on each line."""
    ranks = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ConfigError(f"vocab_file: {path}:{number} is not a base64 token and its rank") from error
    if not ranks:
        raise ConfigError(f"vocab_file: {path} has no tokens")
    return ranks


def tiktoken_encoding(config: TokenizerConfig) -> tuple[str, Path | None]:
    """The name of the tiktoken encoding, and its file where vocab_file is one (named as the encoding: o200k_base.tiktoken)."""
    if config.vocab_file is None:
        raise ConfigError(f"vocab_file: TiktokenTokenizer needs an encoding: {', '.join(TIKTOKEN_ENCODINGS)}")
    if config.vocab_file in TIKTOKEN_ENCODINGS:
        return config.vocab_file, None
    path = required_file(config, "vocab_file")
    if path.stem not in TIKTOKEN_ENCODINGS:
        raise ConfigError(
            f"vocab_file: the name of {path} does not say which encoding it holds, so that its pattern is unknown: "
            f"name it after one of {', '.join(TIKTOKEN_ENCODINGS)}"
        )
    return path.stem, path


def sentencepiece_size(path: Path) -> int:
    """The number of pieces in a sentencepiece model: how often field 1 occurs in the protocol buffer's top level."""
    data = path.read_bytes()
    position = pieces = 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            field, wire_type = tag >> 3, tag & 7
            if wire_type == 0:
                _, position = _varint(data, position)
            elif wire_type == 2:
                length, position = _varint(data, position)
                position += length
            elif wire_type in (1, 5):
                position += 8 if wire_type == 1 else 4
            else:
                raise ValueError(f"wire type {wire_type}")
            pieces += field == 1
    except (IndexError, ValueError) as error:
        raise ConfigError(f"vocab_file: {path} is not a sentencepiece model ({error})") from error
    if position != len(data) or pieces == 0:
        raise ConfigError(f"vocab_file: {path} is not a whole sentencepiece model")
    return pieces


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A protocol buffer's integer at a position, and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7


def _gpt2_size(config: TokenizerConfig) -> int:
    return len(read_gpt2_vocabulary(config))


def _hf_size(config: TokenizerConfig) -> int:
    path = required_file(config, "vocab_file")
    content = read_json(path, "vocab_file")
    try:
        vocabulary = content["model"]["vocab"]
        # a Unigram model lists its pieces; every other kind maps tokens to ids
        ids = range(len(vocabulary)) if isinstance(vocabulary, list) else vocabulary.values()
        added = [token["id"] for token in content.get("added_tokens") or []]
        return max([*ids, *added]) + 1
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConfigError(f"vocab_file: {path} is not a tokenizer.json of the `tokenizers` library") from error


def _tiktoken_size(config: TokenizerConfig) -> int:
    return TIKTOKEN_ENCODINGS[tiktoken_encoding(config)[0]].vocab_size


READERS = {
    "GPT2BPETokenizer": _gpt2_size,
    "HFTokenizer": _hf_size,
    "CharLevelTokenizer": lambda _: CHARACTER_VOCAB_SIZE,
    "SPMTokenizer": lambda config: sentencepiece_size(required_file(config, "vocab_file")),
    "TiktokenTokenizer": _tiktoken_size,
}
