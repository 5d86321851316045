"""Unpack corpora, from whatever they are packed in, into a stream of records. Knows nothing about what a record means.

    file -> (decompressed) -> (members of an archive) -> lines, paragraphs, rows or whole files

Nothing but the current record and a block is in memory.
"""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO, Literal, NamedTuple

import orjson
import zstandard

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
BLOCK = 1 << 16  # compressed bytes read at a time; they can expand a thousandfold and more
ROWS = 256  # of a parquet file, unpacked at a time

TextUnit = Literal["file", "paragraph", "line"]


@dataclass(frozen=True)
class Unpacking:
    """What to make records of: the columns of a table, and what of a plain text (`.txt`) is a document."""

    keys: tuple[str, ...] = ("text",)
    text_unit: TextUnit = "file"


class Record(NamedTuple):
    """One record as bytes: a JSON object, a plain text, or the sentence that says why nothing more can be read here."""

    source: str  # the file, and after `!` the member of the archive
    line: int | None  # where it begins; None where it has no lines
    kind: Literal["json", "text", "fault"]
    content: bytes

    @property
    def place(self) -> str:
        """`file`, `file:line` or `archive!member:line`."""
        return self.source if self.line is None else f"{self.source}:{self.line}"


def read_records(name: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    """The records of a file in their order; its name says how it is packed. A file that breaks off ends in a `fault`."""
    last = Record(name, None, "text", b"")
    try:
        for record in _unpack(name, name, file, unpacking):
            last = record
            yield record
    except _Damage as damage:
        line = None if last.line is None else last.line + 1
        yield Record(last.source, line, "fault", f"the {damage.what} is damaged or cut off ({damage.why})".encode())


def is_known(name: str, in_archive: bool = False) -> bool:
    """Whether a file of this name can be read. A table or zip file within an archive cannot: they are read in leaps."""
    inner, packing = _without_packing(name)
    suffix = PurePosixPath(inner).suffix
    return suffix in (".jsonl", ".json", ".txt", ".tar") or (
        suffix in (".zip", ".parquet") and packing is None and not in_archive
    )


def is_plain_lines(name: str, unpacking: Unpacking) -> bool:
    """Whether each line of the file is a record, and can be found without what comes before it."""
    suffix = PurePosixPath(name).suffix
    return suffix in (".jsonl", ".json") or (suffix == ".txt" and unpacking.text_unit == "line")


KNOWN_SUFFIXES = (
    ".jsonl, .json and .txt (each also with .zst, .gz or .xz), .parquet, .zip, .tar, .tar.zst, .tar.gz, .xz"
)


class _Damage(Exception):
    """A file cannot be read any further: what it is, and why."""

    def __init__(self, what: str, why: object):
        super().__init__(what)
        self.what = what
        self.why = why


def _without_packing(name: str) -> tuple[str, str | None]:
    """The name without the suffix of a compression, and that suffix."""
    packing = PurePosixPath(name).suffix
    if packing not in _PACKINGS:
        return name, None
    inner = name.removesuffix(packing)
    if packing == ".xz" and not PurePosixPath(inner).suffix:
        inner += ".tar"  # OpenWebText's archives are called so
    return inner, packing


def _unpack(source: str, name: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    """The records of a stream, `source` to its user, which its `name` says how to read."""
    inner, packing = _without_packing(name)
    if packing is not None:
        file = _unpacked(packing, file)
    suffix = PurePosixPath(inner).suffix
    if suffix == ".txt":
        yield from _TEXTS[unpacking.text_unit](source, file)
    elif suffix == ".tar":
        yield from _tar(source, file, unpacking)
    elif suffix == ".zip":
        yield from _zip(source, file, unpacking)
    elif suffix == ".parquet":
        yield from _parquet(source, file, unpacking)
    else:
        yield from _json_lines(source, file)


def _json_lines(source: str, file: BinaryIO) -> Iterator[Record]:
    for number, line in _lines(file):
        if not _is_blank(line):
            yield Record(source, number, "json", line)


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Numbered lines, without the byte order mark."""
    for number, line in enumerate(file, start=1):
        yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _is_blank(line: bytes) -> bool:
    return not line or line.isspace()  # looks no further than it must


def _whole_text(source: str, file: BinaryIO) -> Iterator[Record]:
    yield Record(source, None, "text", file.read().removeprefix(BYTE_ORDER_MARK))


def _text_lines(source: str, file: BinaryIO) -> Iterator[Record]:
    for number, line in _lines(file):
        if not _is_blank(line):
            yield Record(source, number, "text", line.rstrip(b"\r\n"))


def _paragraphs(source: str, file: BinaryIO) -> Iterator[Record]:
    """What stands between blank lines, with the newline that ends it."""
    begin, gathered = 1, []
    for number, line in _lines(file):
        if not _is_blank(line):
            gathered.append(line)
            continue
        if gathered:
            yield Record(source, begin, "text", b"".join(gathered))
        begin, gathered = number + 1, []
    if gathered:
        yield Record(source, begin, "text", b"".join(gathered))


_TEXTS = {"file": _whole_text, "paragraph": _paragraphs, "line": _text_lines}


def _tar(source: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    stream = _Tail(file)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                archive.members = []  # or it keeps them all
                if member.isfile():
                    yield from _member(source, member.name, archive.extractfile(member), unpacking)
    except tarfile.TarError as error:
        raise _Damage("tar archive", error) from error
    if stream.tail.strip(b"\0"):
        raise _Damage("tar archive", "its end is missing")


class _Tail:
    """Passes the bytes of a file on and remembers the last, which in a whole tar archive are zero."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.tail = b"\0"

    def read(self, size: int) -> bytes:
        block = self.file.read(size)
        self.tail = block[-512:] or self.tail
        return block


def _zip(source: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as content:
                        yield from _member(source, member.filename, content, unpacking)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise _Damage("zip archive", error) from error  # the last two: encrypted, or packed in a way unknown to Python


def _member(source: str, name: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    place = f"{source}!{name}"
    if is_known(name, in_archive=True):
        yield from _unpack(place, name, file, unpacking)
    else:
        yield Record(place, None, "fault", f"its suffix is not one of {KNOWN_SUFFIXES}".encode())


def _parquet(source: str, file: BinaryIO, unpacking: Unpacking) -> Iterator[Record]:
    """A row is a record, written as the JSON object it stands for; only the columns that are asked for are read."""
    import pyarrow  # noqa: PLC0415 (a fifth of a second for a format that few corpora have)
    import pyarrow.parquet  # noqa: PLC0415

    try:
        table = pyarrow.parquet.ParquetFile(file)
        columns = [name for name in table.schema_arrow.names if name in (*unpacking.keys, "meta")]
        number = 0
        for batch in table.iter_batches(ROWS, columns=columns):
            for row in batch.to_pylist() if columns else [{}] * len(batch):
                number += 1
                # what JSON cannot express is no text either
                yield Record(source, number, "json", orjson.dumps(row, default=lambda _: None))
    except (pyarrow.ArrowException, OSError) as error:
        raise _Damage("parquet file", str(error).split("\n", 1)[0]) from error


class _Blocks(io.RawIOBase):
    """A file made of blocks that come one after another."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


# by suffix: what the packing is called, what begins to unpack a stream of it, and what that raises
_PACKINGS = {
    # the Pile's archives have long windows, which the default limit refuses
    ".zst": ("zstd stream", lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()),
    ".gz": ("gzip stream", lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)),
    ".xz": ("xz stream", lzma.LZMADecompressor),
}


def _unpacked(packing: str, file: BinaryIO) -> BinaryIO:
    """The content of a file of one or more compressed streams, one after another."""
    return io.BufferedReader(_Blocks(_unpacked_blocks(packing, file)), BLOCK)


def _unpacked_blocks(packing: str, file: BinaryIO) -> Iterator[bytes]:
    """What each block of the file comes to. How far the file is read follows from its bytes alone (see neox/data/parts.py), which
    the modules `gzip` and `lzma` do not promise: each release of Python reads ahead as it likes."""
    what, begin = _PACKINGS[packing]
    stream = None
    try:
        while compressed := file.read(BLOCK):
            while compressed := compressed if stream else compressed.lstrip(b"\0"):  # streams may be padded
                stream = stream or begin()
                yield stream.decompress(compressed)
                compressed = stream.unused_data if stream.eof else b""
                if stream.eof:
                    stream = None
    except (zstandard.ZstdError, zlib.error, lzma.LZMAError) as error:
        raise _Damage(what, error) from error
    if stream is not None:
        raise _Damage(what, "the file ends within it")
