"""Read corpora as a stream of documents, and find them by name. Knows nothing about tokens."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import orjson

from neox.config.errors import ConfigError
from neox.data.records import KNOWN_SUFFIXES, Record, Unpacking, is_known, read_records

STANDARD_INPUT = Path("-")
PLAIN = Unpacking()


@dataclass(frozen=True)
class Document:
    """The texts of one document, one for each key asked for, and the subset it belongs to (`meta.pile_set_name`, or "")."""

    texts: tuple[str, ...]
    subset: str
    place: str


class RecordError(ValueError):
    """One record cannot be used; the sentence says why."""


Complain = Callable[[str, str], None]


def raise_complaint(place: str, sentence: str) -> None:
    """The strict way to take a bad record: ConfigError with its place."""
    raise ConfigError(f"{place}: {sentence}")


def documents(path: Path, unpacking: Unpacking = PLAIN, complain: Complain = raise_complaint) -> Iterator[Document]:
    """The documents of a file in their order.

    For a record that cannot be used, or a file that breaks off, `complain(place, sentence)` is called: it raises, or it returns
    and reading goes on with what follows.
    """
    with open_corpus(path) as file:
        for record in read_records(corpus_name(path), file, unpacking):
            try:
                document = parse(record, unpacking.keys)
            except RecordError as error:
                complain(record.place, str(error))
            else:
                yield document


def open_corpus(path: Path) -> AbstractContextManager[BinaryIO]:
    """The bytes of a corpus; ConfigError where it cannot be opened."""
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    try:
        return open(path, "rb")
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be read ({error.strerror})") from error


def corpus_name(path: Path) -> str:
    """The name by which a corpus is read and shown; standard input holds JSON lines."""
    return "stdin.jsonl" if path == STANDARD_INPUT else str(path)


@dataclass(frozen=True)
class Corpora:
    """The files to read, in order, and those of the folders that no reader takes."""

    paths: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


def find_corpora(names: Iterable[str]) -> Corpora:
    """The files that the user named, each one there and with a known suffix: files, folders (all in them, sorted), patterns with
    `*`, `-` for standard input; a name may be a comma-separated list, as in gpt-neox. Every complaint is raised together."""
    found, complaints = Corpora(), []
    for name in names:
        for part in [name] if Path(name).exists() else name.split(","):
            try:
                paths = _matching(part)
                for path in paths:
                    if path.is_dir():
                        _take_folder(path, found)
                    elif path == STANDARD_INPUT or is_known(path.name):
                        found.paths.append(path)
                    else:
                        raise ConfigError(f"{path}: its suffix is not one of {KNOWN_SUFFIXES}")
            except ConfigError as error:
                complaints.extend(error.complaints)
    if complaints:
        raise ConfigError(complaints)
    return found


def _matching(name: str) -> list[Path]:
    path = Path(name)
    if name == "-" or path.exists():
        return [path]
    if not glob.has_magic(name):
        raise ConfigError(f"{name}: there is no such file")
    matches = sorted(glob.glob(name, recursive=True))
    if not matches:
        raise ConfigError(f"{name}: no file matches it")
    return [Path(match) for match in matches]


def _take_folder(folder: Path, found: Corpora) -> None:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    known = [path for path in files if is_known(path.name)]
    if not known:
        raise ConfigError(f"{folder}: no file in it has a suffix of {KNOWN_SUFFIXES}")
    found.paths.extend(known)
    found.left_out.extend(path for path in files if not is_known(path.name))


def parse(record: Record, keys: tuple[str, ...]) -> Document:
    """The document that a record is; RecordError where it is none."""
    if record.kind == "text":
        for key in keys:
            if key != "text":
                raise RecordError(f"there is no key {key!r} in a plain text, only 'text'")
        return Document((_decode(record.content).replace("\r\n", "\n"),) * len(keys), "", record.place)
    value = json_object(record, keys)
    for key in keys:
        if not isinstance(value[key], str):
            raise RecordError(f"the value of {key!r} is not a text")
    return Document(tuple(value[key] for key in keys), subset_of(value), record.place)


def json_object(record: Record, keys: tuple[str, ...]) -> dict:
    """The JSON object that a record is, which has the keys; RecordError where it is none."""
    if record.kind != "json":
        raise RecordError(
            record.content.decode() if record.kind == "fault" else "it is a plain text, and no JSON object"
        )
    try:
        value = orjson.loads(record.content)
    except orjson.JSONDecodeError as error:
        _decode(record.content)  # names the byte where the trouble is the encoding
        raise RecordError(f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RecordError("it is not a JSON object")
    for key in keys:
        if key not in value:
            raise RecordError(f"there is no key {key!r}, only {', '.join(map(repr, value)) or 'an empty object'}")
    return value


def subset_of(value: dict) -> str:
    """What the Pile calls the part that a document comes from."""
    meta = value.get("meta")
    name = meta.get("pile_set_name") if isinstance(meta, dict) else None
    return name if isinstance(name, str) else ""


def _decode(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"it is not UTF-8 (byte {error.start + 1})") from error
