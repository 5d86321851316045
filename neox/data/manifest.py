"""The manifest of token files: where they come from and what they must be. Knows nothing about how they are made.

`<prefix>.json` lies beside `<prefix>.bin` and `.idx`. It holds no time and no machine: the same input makes the same bytes.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy

from neox.config.errors import ConfigError

VERSION = 1


def manifest(
    *,
    key: str | None,
    sources: list[dict[str, Any]],
    tokenizer: dict[str, Any],
    append_eod: bool,
    dtype: numpy.dtype,
    subsets: dict[str, dict[str, int]],
    left_out: dict[str, int],
    files: dict[str, str],
) -> bytes:
    """The manifest's content.

    `sources` have `path`, `bytes` and `sha256`; `tokenizer` its type, `vocab_size`, `eod` and the SHA-256 of its files; `subsets`
    have `documents`, `text_bytes` and `tokens` by name; `files` the SHA-256 of `.bin` and `.idx`.
    """
    content = {
        "version": VERSION,
        "key": key,
        "documents": sum(share["documents"] for share in subsets.values()),
        "tokens": sum(share["tokens"] for share in subsets.values()),
        "dtype": dtype.name,
        "append_eod": append_eod,
        "tokenizer": tokenizer,
        "subsets": subsets,
        **left_out,
        "sha256": files,
        "sources": sources,
    }
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def read_manifest(prefix: str | Path) -> dict[str, Any] | None:
    """The manifest of token files; None where there is none (those of other products have none). ConfigError where it is damaged."""
    path = Path(f"{prefix}.json")
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION:
            raise ConfigError(f"{path}: version {content['version']} of the format is not known, only {VERSION}")
        return content
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: it is not the manifest of token files") from error


def check_hashes(prefix: str | Path, content: dict[str, Any]) -> None:
    """Read token files from beginning to end; ConfigError that names the file whose SHA-256 is not the manifest's."""
    for suffix, expected in content["sha256"].items():
        path = Path(f"{prefix}{suffix}")
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise ConfigError(f"{path}: its SHA-256 is {found}, and its manifest says {expected}: the file is damaged")
