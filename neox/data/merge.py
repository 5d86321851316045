"""Join token files, one after another, to one pair. Knows nothing about text."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy

from neox.config.errors import ConfigError
from neox.data.files import write_durably
from neox.data.manifest import manifest, read_manifest
from neox.data.store import StoreFacts, StoreWriter, check_store, read_lengths
from neox.data.workplace import Workplace

BLOCK_TOKENS = 8_000_000  # copied at a time, unless a sequence is longer
_SHARD = re.compile(r"_(\d{5})-of-(\d{5})_")


def merge_stores(prefixes: Sequence[str], output: str) -> StoreFacts:
    """Write `<output>.bin`, `.idx` and `.json` with the documents of all inputs in their order, whole or not at all.

    The shards of a preprocessing job give the files of the job done at once, to the byte. Raises ConfigError where inputs are
    missing, damaged, or differ in dtype, tokenizer or the end of documents. Without a manifest of every input there is none of the
    output.
    """
    _check_shards(prefixes)
    facts = {prefix: check_store(prefix, may_be_empty=True) for prefix in prefixes}
    if not any(fact.tokens for fact in facts.values()):
        raise ConfigError(f"there are no tokens in {', '.join(prefixes)}: nothing is written")
    manifests = [read_manifest(prefix) for prefix in prefixes]
    known = {prefix: found for prefix, found in zip(prefixes, manifests) if found is not None}
    _check_alike({prefix: fact.dtype.name for prefix, fact in facts.items()}, "dtype")
    for key in ("tokenizer", "append_eod", "key"):
        _check_alike({prefix: found[key] for prefix, found in known.items()}, key)
    for prefix, fact in facts.items():
        if fact.documents != fact.sequences:
            raise ConfigError(f"{prefix}.idx: its documents have several sequences each, which would be lost")

    dtype = facts[prefixes[0]].dtype
    with Workplace(output, {"merge": list(prefixes)}, overwrite=True) as workplace:
        inside = workplace.folder / Path(output).name
        with StoreWriter(inside, dtype) as writer:
            for prefix, found in zip(prefixes, manifests):
                _copy(prefix, facts[prefix], found, writer)
            files = writer.finish()
            total = StoreFacts(writer.sequences, writer.sequences, writer.tokens, dtype)
        if len(known) == len(prefixes):
            write_durably(Path(f"{inside}.json"), _joined(manifests, dtype, files))
        else:
            Path(f"{output}.json").unlink(missing_ok=True)
        workplace.publish([inside.name + suffix for suffix in (".bin", ".json", ".idx")])
    return total


def _check_shards(prefixes: Sequence[str]) -> None:
    """Shards of one job are all there, in order."""
    shards = [match.groups() for prefix in prefixes if (match := _SHARD.search(Path(prefix).name))]
    if shards and shards != [(f"{number:05}", shards[0][1]) for number in range(1, int(shards[0][1]) + 1)]:
        found = ", ".join(f"{number}-of-{count}" for number, count in shards)
        raise ConfigError(f"the shards are not 1 to {int(shards[0][1])}, each once and in order: {found}")


def _check_alike(values: dict[str, Any], name: str) -> None:
    """ConfigError that names two inputs where not all have the same value."""
    (first, expected), *others = values.items() or [(None, None)]
    for prefix, value in others:
        if value != expected:
            raise ConfigError(f"{name}: {first} has {expected}, and {prefix} has {value}: they cannot be one data set")


def _copy(prefix: str, facts: StoreFacts, found: dict[str, Any] | None, writer: StoreWriter) -> None:
    digest = hashlib.sha256()
    for tokens, lengths in _blocks(prefix, facts):
        digest.update(memoryview(tokens).cast("B") if tokens.size else b"")
        writer.add(tokens, lengths)
    if found is not None and digest.hexdigest() != found["sha256"][".bin"]:
        raise ConfigError(f"{prefix}.bin: its SHA-256 is not the one in its manifest: the file is damaged")


def _blocks(prefix: str, facts: StoreFacts) -> Iterator[tuple[numpy.ndarray, numpy.ndarray]]:
    """The tokens of some sequences, one after another, and the lengths of these."""
    with open(f"{prefix}.bin", "rb") as file:
        for lengths in read_lengths(prefix):
            ends = numpy.cumsum(lengths, dtype=numpy.int64)
            begin = done = 0
            while begin < len(lengths):
                end = max(int(numpy.searchsorted(ends, done + BLOCK_TOKENS, "right")), begin + 1)
                yield numpy.fromfile(file, facts.dtype, int(ends[end - 1]) - done), lengths[begin:end]
                begin, done = end, int(ends[end - 1])


def _joined(manifests: list[dict[str, Any]], dtype: numpy.dtype, files: dict[str, str]) -> bytes:
    """The manifest of all inputs together."""
    subsets: dict[str, dict[str, int]] = {}
    for found in manifests:
        for name, share in found["subsets"].items():
            before = subsets.setdefault(name, dict.fromkeys(share, 0))
            subsets[name] = {unit: before[unit] + count for unit, count in share.items()}
    return manifest(
        key=manifests[0]["key"],
        sources=_joined_sources([source for found in manifests for source in found["sources"]]),
        tokenizer=manifests[0]["tokenizer"],
        append_eod=manifests[0]["append_eod"],
        dtype=dtype,
        subsets=dict(sorted(subsets.items())),
        left_out={key: sum(found[key] for found in manifests) for key in ("empty_documents", "bad_records")},
        files=files,
    )


def _joined_sources(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The sources of all inputs, each file once: shards have parts of it."""
    joined: list[dict[str, Any]] = []
    done: list[int] = []  # bytes of each, up to here
    for source in sources:
        begin, end = source.get("part", [0, source["bytes"]])
        if begin == 0:
            joined.append({key: value for key, value in source.items() if key != "part"})
            done.append(end)
        elif joined and all(joined[-1][key] == source[key] for key in ("path", "bytes")) and done[-1] == begin:
            done[-1] = end
        else:
            raise ConfigError(
                f"{source['path']}: what is before its byte {begin:,} is in no input, or the file changed"
            )
    for source, end in zip(joined, done):
        if end != source["bytes"]:
            raise ConfigError(f"{source['path']}: what is after its byte {end:,} is in no input, or the file changed")
    return joined
