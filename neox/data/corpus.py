"""Read raw corpora as a stream of documents. Knows nothing about tokens; never holds more than one document and one block.

Every reader takes a path and yields `(line, position, record)`: where the record begins (None where a file is one record), how many
bytes of the file on disk are done, and the record's raw bytes. What a record means is the table's second column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import zstandard

from neox.config.errors import ConfigError

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK = 1 << 16  # compressed bytes read at a time; a block of zstd can expand a thousandfold and more


@dataclass(frozen=True)
class Document:
    """The texts of one document, one for each key asked for, and where it stands: `file` or `file:line`.

    `position` counts the bytes on disk that are done in the file it came from, for a progress bar.
    """

    texts: tuple[str, ...]
    source: Path
    place: str
    position: int


class RecordError(ValueError):
    """One record cannot be used; the sentence says why."""


Complain = Callable[[str, str], None]


def raise_complaint(place: str, sentence: str) -> None:
    """The strict way to take a bad record: ConfigError with its place."""
    raise ConfigError(f"{place}: {sentence}")


def documents(
    path: Path, keys: tuple[str, ...] = ("text",), complain: Complain = raise_complaint
) -> Iterator[Document]:
    """The documents of a file in their order.

    For a record that cannot be used, or a file that breaks off, `complain(place, sentence)` is called: it raises, or it returns
    and reading goes on with what follows.
    """
    read, parse = READERS[corpus_suffix(path)]
    try:
        for line, position, record in read(path):
            place = str(path) if line is None else f"{path}:{line}"
            try:
                texts = parse(record, keys)
            except RecordError as error:
                complain(place, str(error))
            else:
                yield Document(texts, path, place, position)
    except _BrokenFile as error:
        complain(f"{path}:{error.line}", str(error))


def corpus_suffix(path: Path) -> str:
    """The suffix that says how to read a file; ConfigError that lists the known ones where it is not among them."""
    # the longest first, so that .jsonl.zst is not taken for .zst
    for suffix in sorted(READERS, key=len, reverse=True):
        if path.name.endswith(suffix):
            return suffix
    raise ConfigError(f"{path}: its suffix is not one of {', '.join(READERS)}")


def find_corpora(names: Iterable[str]) -> list[Path]:
    """The files that the user named, each one checked to be there and to have a known suffix; a name may be a comma-separated
    list, as in gpt-neox. Every complaint is raised together."""
    paths, complaints = [], []
    for name in names:
        for part in [name] if Path(name).exists() else name.split(","):
            path = Path(part)
            try:
                corpus_suffix(path)
            except ConfigError as error:
                complaints.extend(error.complaints)
            else:
                if path.is_file():
                    paths.append(path)
                else:
                    complaints.append(f"{path}: there is no such file")
    if complaints:
        raise ConfigError(complaints)
    return paths


class _BrokenFile(Exception):
    """Nothing more can be read from a file, after `line`."""

    def __init__(self, line: int, sentence: str):
        super().__init__(sentence)
        self.line = line


def _plain_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    position = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            position += len(line)
            yield from _record(number, position, line)


def _zstd_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    number, pending = 1, []  # pieces of a line that has not ended
    with open(path, "rb") as file:
        blocks = _zstd_blocks(file)
        while True:
            try:
                block = next(blocks, None)
            except (zstandard.ZstdError, EOFError) as error:
                raise _BrokenFile(number, f"the zstd stream is damaged or cut off ({error})") from error
            if block is None:
                break
            *ended, rest = block.split(b"\n")
            for piece in ended:
                line = b"".join([*pending, piece])
                pending.clear()
                yield from _record(number, file.tell(), line)
                number += 1
            pending.append(rest)
        yield from _record(number, file.tell(), b"".join(pending))


def _zstd_blocks(file) -> Iterator[bytes]:
    """The decompressed blocks of a file of one or more zstd frames; EOFError where the last one is cut off."""
    frame = None
    while compressed := file.read(BLOCK):
        while compressed:
            if frame is None:
                # the Pile's archives have long windows, which the default limit refuses
                frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
            yield frame.decompress(compressed)
            compressed = frame.unused_data if frame.eof else b""
            if frame.eof:
                frame = None
    if frame is not None:
        raise EOFError("the file ends within a frame")


def _record(number: int, position: int, line: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The record of a line, without the file's byte order mark; a blank line is none."""
    if number == 1:
        line = line.removeprefix(BYTE_ORDER_MARK)
    if line.strip():
        yield number, position, line


def _whole_file(path: Path) -> Iterator[tuple[None, int, bytes]]:
    content = path.read_bytes()
    yield None, len(content), content.removeprefix(BYTE_ORDER_MARK)


def _parse_json(record: bytes, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The texts under the keys of a JSON object."""
    try:
        value = orjson.loads(record)
    except orjson.JSONDecodeError as error:
        _decode(record)  # names the byte where the trouble is the encoding
        raise RecordError(f"it is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise RecordError("it is not a JSON object")
    for key in keys:
        if key not in value:
            raise RecordError(f"there is no key {key!r}, only {', '.join(map(repr, value)) or 'an empty object'}")
        if not isinstance(value[key], str):
            raise RecordError(f"the value of {key!r} is not a text")
    return tuple(value[key] for key in keys)


def _parse_text(record: bytes, keys: tuple[str, ...]) -> tuple[str, ...]:
    """The text of a file, its line ends made newlines; it stands under the key `text`."""
    for key in keys:
        if key != "text":
            raise RecordError(f"there is no key {key!r} in a plain text, only 'text'")
    return (_decode(record).replace("\r\n", "\n"),) * len(keys)


def _decode(record: bytes) -> str:
    try:
        return record.decode()
    except UnicodeDecodeError as error:
        raise RecordError(f"it is not UTF-8 (byte {error.start + 1})") from error


READERS = {
    ".jsonl": (_plain_lines, _parse_json),
    ".jsonl.zst": (_zstd_lines, _parse_json),
    ".txt": (_whole_file, _parse_text),
}
