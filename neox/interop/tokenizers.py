"""The tokenizer's files that travel with the weights, and the keys that name them here."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from neox.config.sections import TokenizerConfig
from neox.interop.files import read_json, write_json
from neox.tokenizer.tokenizer import build_tokenizer
from neox.tokenizer.vocabulary import FOLDER_CONFIG, FOLDER_KINDS, located

GENERATION_FILE = "generation_config.json"
FILES = (
    "tokenizer.json",
    FOLDER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    GENERATION_FILE,
)
# classes of transformers that read the files of a kind
CLASSES = {
    "HFTokenizer": "PreTrainedTokenizerFast",
    "GPT2BPETokenizer": "GPT2Tokenizer",
    "SPMTokenizer": "LlamaTokenizer",
}
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def bring_in(source: Path, target: Path, config: dict[str, Any]) -> TokenizerConfig | None:
    """Copy the tokenizer's files, and keep the ids of special tokens that config.json has; None where there are none.

    The paths in the result are those below `target`.
    """
    target.mkdir()
    _copy(source, target)
    if not (target / GENERATION_FILE).exists():
        write_json(target / GENERATION_FILE, {name: config[name] for name in SPECIAL_IDS if name in config})
    for kind, files in FOLDER_KINDS:
        if all((target / file).is_file() for file in files.values()):
            paths = {key: str(target / file) for key, file in files.items()}
            return TokenizerConfig(tokenizer_type=kind, **paths)
    return None


def moved(config: TokenizerConfig, folder: Path) -> TokenizerConfig:
    """The same tokenizer with its files in another folder."""
    paths = {key: str(folder / Path(getattr(config, key)).name) for key in dict(FOLDER_KINDS)[config.tokenizer_type]}
    return config.model_copy(update=paths)


def take_out(config: TokenizerConfig, target: Path) -> tuple[dict[str, Any], str | None]:
    """Copy the tokenizer's files into a folder of transformers: ids of special tokens for config.json, and what to warn of."""
    ids: dict[str, Any] = {
        "bos_token_id": None,
        "eos_token_id": None,
    }  # a family's defaults would be another tokenizer's
    found = located(config)
    source = None if found.vocab_file is None else Path(found.vocab_file)
    if source is not None and (source.parent / GENERATION_FILE).is_file():  # it came from transformers
        _copy(source.parent, target)
        known = read_json(target / GENERATION_FILE)
        return ids | {name: known[name] for name in SPECIAL_IDS if name in known}, None
    files = dict(FOLDER_KINDS).get(found.tokenizer_type)
    if files is None:
        return ids, f"no tokenizer is exported: transformers has none like {config.tokenizer_type}"
    if source is None or not source.is_file():
        return ids, f"no tokenizer is exported: vocab_file {config.vocab_file or ''} is not there"
    tokenizer = build_tokenizer(config)
    for key, file in files.items():
        shutil.copyfile(getattr(found, key), target / file)
    facts = {"tokenizer_class": CLASSES[found.tokenizer_type]}
    if tokenizer.eod is not None:
        end = tokenizer.decode([tokenizer.eod])
        facts |= {"bos_token": end, "eos_token": end}
        ids = {"bos_token_id": tokenizer.eod, "eos_token_id": tokenizer.eod}
    write_json(target / FOLDER_CONFIG, facts)
    write_json(target / GENERATION_FILE, ids)
    return ids, None


def _copy(source: Path, target: Path) -> None:
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
