"""What a run reads, in a form that its checkpoints keep, so that going on with other data is seen. Knows nothing about samples.

Files are known by their content, not by their path: data that were moved or renamed are the same data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.manifest import read_manifest
from neox.data.mixtures import USES, Part, mixture
from neox.tokenizer.vocabulary import file_hashes, located

# what a sample holds depends on these too; they count where they are not as in the beginning of all runs
KEYS = (
    "pack_impl",
    "allow_chopped",
    *(name for name in DataConfig.model_fields if name.startswith(("fim_", "mlm_"))),
)

# follows from the other facts, and from how many samples are asked for
ORDER = "order of the samples (train_iters x train_batch_size)"

SHOWN_DIGITS = 12  # of a SHA-256: enough to tell files apart that nobody forges


@dataclass(frozen=True)
class Fact:
    """One thing on which the order or the meaning of the tokens depends."""

    about: str  # a key of the configuration
    value: str  # for token files: size, hash of the index, share
    name: str = ""  # of token files, for people: it is not compared
    content: str | None = None  # SHA-256 of the .bin, where a manifest tells it

    def __str__(self) -> str:
        name = f"{self.name}, " if self.name else ""
        content = f", SHA-256 of .bin {self.content[:SHOWN_DIGITS]}" if self.content else ""
        return f"{self.about}: {name}{self.value}{content}"


def fingerprint(data: DataConfig, seq_length: int, seed: int, tokenizer: TokenizerConfig) -> list[Fact]:
    """The facts of a run's data, in a fixed order. Reads the index of token files that have no manifest.

    Raises ConfigError that names a damaged manifest.
    """
    hashes = [f"{key} {value[:SHOWN_DIGITS]}" for key, value in file_hashes(tokenizer).items() if value]
    facts = [
        Fact("seq_length", f"{seq_length:,}"),
        Fact("seed", str(seed)),
        Fact("tokenizer", ", ".join([located(tokenizer).tokenizer_type, *hashes])),
    ]
    changed = [
        f"{key} {getattr(data, key)}" for key in KEYS if getattr(data, key) != DataConfig.model_fields[key].default
    ]
    if changed:
        facts.append(Fact("samples", ", ".join(changed)))
    if data.data_path is not None:
        return [*facts, Fact("split", data.split.replace(" ", "")), _files("data_path", data.data_path, "")]
    for use in USES:
        for part in mixture(data, use):
            facts += _part_files(f"pos_{use}" if part.rejected else use, part)
            if part.rejected is not None:
                facts += _part_files(f"neg_{use}", part.rejected)
    return facts


def changes(before: Sequence[Fact], now: Sequence[Fact]) -> list[str]:
    """What differs, as lines that begin with - (before) or + (now); empty where both are the same data.

    The order is compared where all else is the same, and the older checkpoint knows its own.
    """
    plain_before, plain_now = ([fact for fact in facts if fact.about != ORDER] for facts in (before, now))
    differences = _differences(plain_before, plain_now)
    if differences or len(plain_before) == len(before):
        return differences
    return _differences(before, now)


def _differences(before: Sequence[Fact], now: Sequence[Fact]) -> list[str]:
    old, new = _comparable(before, now), _comparable(now, before)
    return [
        f"{sign} {fact}"
        for tag, first, past, new_first, new_past in SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if tag != "equal"
        for sign, facts in (("-", before[first:past]), ("+", now[new_first:new_past]))
        for fact in facts
    ]


def _part_files(use: str, part: Part) -> list[Fact]:
    """The facts of the texts and labels of a part."""
    facts = [_files(f"{use}_data_paths", part.prefix, f", share {part.share:.6g}")]
    if part.labels is not None:
        facts.append(_files(f"{use}_label_data_paths", part.labels, ""))
    return facts


def _files(about: str, prefix: str, share: str) -> Fact:
    """The fact of a pair of token files."""
    manifest = read_manifest(prefix)
    if manifest is not None:
        content, index = manifest["sha256"][".bin"], manifest["sha256"][".idx"]
    else:
        with open(f"{prefix}.idx", "rb") as file:
            content, index = None, hashlib.file_digest(file, "sha256").hexdigest()
    size = Path(f"{prefix}.bin").stat().st_size
    return Fact(about, f"{size:,} bytes, SHA-256 of .idx {index[:SHOWN_DIGITS]}{share}", Path(prefix).name, content)


def _comparable(facts: Sequence[Fact], others: Sequence[Fact]) -> list[tuple[str, str, str | None]]:
    """What is compared of each fact: the content of a file does not count where the other side does not know it."""
    unknown = {(other.about, other.value) for other in others if other.content is None}
    return [(fact.about, fact.value, None if (fact.about, fact.value) in unknown else fact.content) for fact in facts]
