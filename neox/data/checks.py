"""The checks of token files that come before the first step: whole, of this tokenizer, and with what the configuration builds on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.data.learned import first_other_question
from neox.data.manifest import read_manifest
from neox.data.mixtures import Part
from neox.data.samples import IndexedDataset
from neox.data.store import NO_LABEL, StoreFacts, check_store, read_lengths
from neox.tokenizer.tokenizer import Tokenizer

TOKENS_LOOKED_AT = 1_000_000
ENDS_LOOKED_AT = 1_000  # documents

# keys that ask where documents end
KEYS_OF_ENDS = ("eod_mask_loss", "reset_attention_mask", "reset_position_ids")


def check_data(data: DataConfig, prefixes: Sequence[str], labelled: Sequence[Part], tokenizer: Tokenizer) -> None:
    """Check all token files of a run; complaints about the texts are raised together, as ConfigError that names the file."""
    wanted = [key for key in KEYS_OF_ENDS if getattr(data, key)]
    if wanted and tokenizer.eod is None:
        raise ConfigError(f"{wanted[0]}: the tokenizer has no end-of-document token")
    facts: dict[str, StoreFacts] = {}
    complaints = []
    for prefix in dict.fromkeys(prefixes):
        try:
            facts[prefix] = check_store(prefix)
            _check_tokenizer(prefix, facts[prefix], tokenizer)
            if wanted:
                _check_ends(prefix, facts[prefix], tokenizer.eod, wanted[0])
        except ConfigError as error:
            complaints.extend(error.complaints)
    if complaints:
        raise ConfigError(complaints)
    for part in labelled:
        _check_labels(part, facts, tokenizer)


def check_pairs(part: Part, store: Callable[[str], IndexedDataset]) -> None:
    """Check that the documents of a part and those that they are preferred to are answers to the same questions, one by one.

    store: the documents of a prefix. Without labels only their numbers can be compared. Raises ConfigError.
    """
    both = part, part.rejected
    preferred, rejected = (store(side.prefix) for side in both)
    hint = "make both from one file in which each line has both answers"
    if len(preferred) != len(rejected):
        raise ConfigError(
            f"{part.rejected.prefix}: {len(rejected):,} documents, and {part.prefix}, which are preferred to them, has "
            f"{len(preferred):,}: {hint}"
        )
    if part.labels is None or part.rejected.labels is None:
        return
    number = first_other_question((preferred, rejected), tuple(store(side.labels) for side in both))
    if number is not None:
        raise ConfigError(
            f"document {number:,} of {part.prefix} and of {part.rejected.prefix} answer different questions: {hint}"
        )


def _check_tokenizer(prefix: str, facts: StoreFacts, tokenizer: Tokenizer) -> None:
    """Check that the tokens are this tokenizer's: by the manifest, where there is one, and by the first of them."""
    known = (read_manifest(prefix) or {}).get("tokenizer")
    if known and known["vocab_size"] > tokenizer.vocab_size:
        raise ConfigError(
            f"{prefix}.json: made with a vocabulary of {known['vocab_size']:,} ids, and the tokenizer has "
            f"{tokenizer.vocab_size:,}: {_other_tokenizer(known)}"
        )
    if known and known["eod"] != tokenizer.eod:
        raise ConfigError(
            f"{prefix}.json: its documents end with token {known['eod']}, and those of the tokenizer with {tokenizer.eod}: "
            f"{_other_tokenizer(known)}"
        )
    _check_vocabulary(prefix, facts, 0, tokenizer.vocab_size)


def _other_tokenizer(known: Mapping[str, Any]) -> str:
    return f"it was made with another one, a {known['type']}: give that one in tokenizer_type and vocab_file, or make it anew"


def _check_vocabulary(prefix: str, facts: StoreFacts, lowest: int, vocab_size: int) -> None:
    """Check that the first tokens are ids of the tokenizer, or `lowest`, which may be less than 0."""
    head = numpy.fromfile(f"{prefix}.bin", dtype=facts.dtype, count=TOKENS_LOOKED_AT)
    if head.min() < lowest or head.max() >= vocab_size:
        outside = head.max() if head.min() >= lowest else head.min()
        raise ConfigError(
            f"{prefix}.bin: token {outside} is not among the {vocab_size:,} ids of the tokenizer: it was made with another one"
        )


def _check_ends(prefix: str, facts: StoreFacts, eod: int, key: str) -> None:
    """Check that some of the first documents end with the end-of-document token."""
    ends = next(read_lengths(prefix))[:ENDS_LOOKED_AT].cumsum(dtype=numpy.int64)
    tokens = numpy.memmap(f"{prefix}.bin", dtype=facts.dtype, mode="r")
    if not (tokens[ends[ends > 0] - 1] == eod).any():
        raise ConfigError(
            f"{key}: no document of {prefix} ends with the end-of-document token {eod}: make the token files with --append-eod"
        )


def _check_labels(part: Part, facts: Mapping[str, StoreFacts], tokenizer: Tokenizer) -> None:
    """Check the token files that hold the labels of others."""
    found = check_store(part.labels)
    lengths = read_lengths(part.prefix), read_lengths(part.labels)
    if found.sequences != facts[part.prefix].sequences or not all(map(numpy.array_equal, *lengths)):
        raise ConfigError(
            f"{part.labels}.idx: its sequences are not as long as those of {part.prefix}.idx, which it labels: "
            "they were not made together"
        )
    _check_vocabulary(part.labels, found, NO_LABEL, tokenizer.vocab_size)
