"""Readers: what a document is in each format, and every bad record named by file and line."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.data.corpus import documents, find_corpora
from neox.data.records import Unpacking

LINES = b'{"text": "one", "title": "A", "meta": {"pile_set_name": "X"}}\n{"text": "two\\r\\n", "title": "B"}\n'
PACKINGS = {".zst": zstandard.compress, ".gz": gzip.compress, ".xz": lzma.compress}
LINE_NAMES = ["c.jsonl", "c.json", "c.jsonl.zst", "c.json.gz", "c.jsonl.gz", "c.jsonl.xz"]


def texts(path: Path, keys=("text",), unit="file", **keywords) -> list[tuple[str, ...]]:
    return [document.texts for document in documents(path, Unpacking(keys, unit), **keywords)]


def packed(name: str, content: bytes) -> bytes:
    return PACKINGS.get(Path(name).suffix, bytes)(content)


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(packed(name, content))
    return path


def tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("name", LINE_NAMES)
def test_json_lines(tmp_path, name):
    path = file(tmp_path, name, LINES)
    assert texts(path) == [("one",), ("two\r\n",)]
    assert texts(path, ("title", "text")) == [("A", "one"), ("B", "two\r\n")]
    assert [document.place for document in documents(path)] == [f"{path}:1", f"{path}:2"]
    assert [document.subset for document in documents(path)] == ["X", ""]


MEMBERS = {"a/one.txt": b"one", "two.jsonl.zst": zstandard.compress(LINES)}


@pytest.mark.parametrize("name", ["c.tar", "c.tar.gz", "c.tar.zst", "c.tar.xz", "c.jsonl.zst.tar", "c.xz", "c.zip"])
def test_archives(tmp_path, name):
    path = file(tmp_path, name, zipped(MEMBERS) if name.endswith(".zip") else tar(MEMBERS))
    assert texts(path) == [("one",), ("one",), ("two\r\n",)]
    assert [document.place for document in documents(path)] == [
        f"{path}!a/one.txt", f"{path}!two.jsonl.zst:1", f"{path}!two.jsonl.zst:2"
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["c.tar", "c.tar.gz", "c.zip"])
def test_archive_with_a_member_that_no_reader_takes(tmp_path, name):
    members = {"one.txt": b"one", "picture.png": b"x", "table.parquet": b"x", "two.txt": b"two"}
    path = file(tmp_path, name, zipped(members) if name.endswith(".zip") else tar(members))
    complaints = []
    assert texts(path, complain=lambda place, _: complaints.append(place)) == [("one",), ("two",)]
    assert complaints == [f"{path}!picture.png", f"{path}!table.parquet"]


@pytest.mark.parametrize("name", ["c.tar", "c.tar.gz", "c.tar.zst", "c.xz", "c.zip"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_archive(tmp_path, name, share):
    members = {f"{number}.txt": f"{number * 7919 % 1_000_003:x}".encode() * 40 for number in range(300)}
    path = file(tmp_path, name, zipped(members) if name.endswith(".zip") else tar(members))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ConfigError, match=r"is damaged or cut off"):
        texts(path)
    complaints = []
    assert len(texts(path, complain=lambda *complaint: complaints.append(complaint))) < 300
    assert len(complaints) == 1


def test_tar_cut_between_two_members(tmp_path):
    path = tmp_path / "c.tar"
    path.write_bytes(tar({"one.txt": b"one", "two.txt": b"two"})[:1024])
    with pytest.raises(ConfigError, match="c.tar!one.txt: the tar archive is damaged or cut off \\(its end is missing"):
        texts(path)


def test_zip_with_a_changed_byte(tmp_path):
    path = tmp_path / "c.zip"
    content = bytearray(zipped({"one.txt": b"one " * 1000}))
    content[45] ^= 255
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="c.zip: the zip archive is damaged"):
        texts(path)


def test_parquet(tmp_path):
    path = tmp_path / "c.parquet"
    rows = [{"text": "one", "id": 1, "meta": {"pile_set_name": "X"}}, {"text": "two", "id": 2, "meta": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([*rows, {"text": None, "id": 3, "meta": None}]), path)
    complaints = []
    found = list(documents(path, complain=lambda *complaint: complaints.append(complaint)))
    assert [(document.texts, document.subset) for document in found] == [(("one",), "X"), (("two",), "")]
    assert complaints == [(f"{path}:3", "the value of 'text' is not a text")]
    with pytest.raises(ConfigError, match="c.parquet:1: there is no key 'body'"):
        texts(path, ("body",))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ConfigError, match="c.parquet: the parquet file is damaged or cut off"):
        texts(path)


@pytest.mark.parametrize("name", LINE_NAMES)
@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + LINES,
        LINES.replace(b"\n", b"\r\n"),
        LINES.removesuffix(b"\n"),
        b"\n" + LINES.replace(b"\n", b"\n\n  \n"),
    ],
    ids=["byte order mark", "CRLF", "no last newline", "blank lines"],
)
def test_json_lines_of_other_systems(tmp_path, name, content):
    """FAULTS 23."""
    assert texts(file(tmp_path, name, content)) == [("one",), ("two\r\n",)]


def test_plain_text_is_one_document(tmp_path):
    assert texts(file(tmp_path, "play.txt", b"\xef\xbb\xbfone\r\n\r\ntwo\r\n")) == [("one\n\ntwo\n",)]


def test_several_zstd_frames(tmp_path):
    path = tmp_path / "c.jsonl.zst"
    middle = len(LINES) // 2  # within a line
    path.write_bytes(zstandard.compress(LINES[:middle]) + zstandard.compress(LINES[middle:]))
    assert texts(path) == [("one",), ("two\r\n",)]


BAD_LINES = [
    (b"{", "it is not JSON"),
    (b'{"text": "\xff"}', r"it is not UTF-8 \(byte 11\)"),
    (b'"text"', "it is not a JSON object"),
    (b'{"body": "x"}', "there is no key 'text', only 'body'"),
    (b"{}", "there is no key 'text', only an empty object"),
    (b'{"text": 3}', "the value of 'text' is not a text"),
    (b'{"text": null}', "the value of 'text' is not a text"),
    (b'{"text": "\\ud800"}', "it is not JSON"),
]


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst", "c.jsonl.gz"])
@pytest.mark.parametrize("line, complaint", BAD_LINES)
def test_bad_record_stops_with_file_and_line(tmp_path, name, line, complaint):
    """FAULTS 23."""
    path = file(tmp_path, name, LINES + line + b"\n" + LINES)
    with pytest.raises(ConfigError, match=f"{name}:3: {complaint}"):
        texts(path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst", "c.jsonl.gz"])
def test_bad_records_can_be_left_out(tmp_path, name):
    """FAULTS 23."""
    path = file(tmp_path, name, b"".join(line + b"\n" + LINES for line, _ in BAD_LINES))
    complaints = []
    assert len(texts(path, complain=lambda place, _: complaints.append(place))) == 2 * len(BAD_LINES)
    assert complaints == [f"{path}:{1 + 3 * index}" for index in range(len(BAD_LINES))]


@pytest.mark.parametrize("name", ["c.jsonl.zst", "c.jsonl.gz", "c.jsonl.xz"])
@pytest.mark.parametrize("share", [0.0001, 0.5, 0.9999])
def test_truncated_stream(tmp_path, name, share):
    """FAULTS 23."""
    lines = b"".join(
        json.dumps({"text": f"{number * 7919 % 1_000_003:x}" * 5}).encode() + b"\n" for number in range(30_000)
    )
    path = file(tmp_path, name, lines)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ConfigError, match=rf"{name}(:\d+)?: the \w+ stream is damaged or cut off"):
        texts(path)
    complaints = []
    assert len(texts(path, complain=lambda *complaint: complaints.append(complaint))) <= 30_000
    assert len(complaints) == 1


@pytest.mark.parametrize("unit, expected", [
    ("file", ["one\n1\n\n \ntwo\n"]), ("paragraph", ["one\n1\n", "two\n"]), ("line", ["one", "1", "two"]),
])  # fmt: skip
def test_units_of_plain_text(tmp_path, unit, expected):
    path = file(tmp_path, "c.txt.gz", b"\xef\xbb\xbfone\r\n1\r\n\r\n \r\ntwo\r\n")
    assert [text for (text,) in texts(path, unit=unit)] == expected
    if unit == "paragraph":
        assert [document.place for document in documents(path, Unpacking(text_unit=unit))] == [f"{path}:1", f"{path}:5"]


def test_not_a_zstd_file(tmp_path):
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(LINES)
    with pytest.raises(ConfigError, match=r"c\.jsonl\.zst: the zstd stream is damaged"):
        texts(path)


def test_text_that_is_not_utf8_and_a_key_it_has_not(tmp_path):
    with pytest.raises(ConfigError, match=r"play\.txt: it is not UTF-8 \(byte 4\)"):
        texts(file(tmp_path, "play.txt", b"abc\xff"))
    with pytest.raises(ConfigError, match=r"play\.txt: there is no key 'title'"):
        texts(file(tmp_path, "play.txt", b"abc"), ("text", "title"))


def test_files_are_found_or_complained_about_together(tmp_path):
    first, second = file(tmp_path, "a.jsonl", LINES), file(tmp_path, "b.txt", b"x")
    assert find_corpora([str(first), str(second)]).paths == find_corpora([f"{first},{second}"]).paths == [first, second]
    with pytest.raises(ConfigError) as caught:
        find_corpora([str(first), "gone.jsonl", str(file(tmp_path, "table.csv", b"")), "gone/*.jsonl"])
    assert [complaint.split(": ", 1)[1][:22] for complaint in caught.value.complaints] == [
        "there is no such file", "its suffix is not one ", "no file matches it"
    ]  # fmt: skip


def test_folders_and_patterns(tmp_path):
    (tmp_path / "deep").mkdir()
    names = ["b.jsonl", "deep/a.txt.gz", "notes.csv"]
    b, a, notes = (file(tmp_path, name, b"") for name in names)
    found = find_corpora([str(tmp_path)])
    assert (found.paths, found.left_out) == ([b, a], [notes])
    assert find_corpora([f"{tmp_path}/**/*.txt.gz"]).paths == [a]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="empty: no file in it has a suffix of .jsonl"):
        find_corpora([str(empty)])


def test_long_file_is_streamed(tmp_path):
    """FAULTS 23."""
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "' + b"abcdefgh" * 1_000 + b'"}\n') * 4_000)  # 32 MB of text
    tracemalloc.start()
    count = sum(1 for _ in documents(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_000
    assert peak < 4_000_000


@settings(max_examples=60)
@given(contents=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), frame=st.integers(1, 50))
def test_what_goes_in_comes_out(tmp_path_factory, contents, frame):
    folder = tmp_path_factory.mktemp("corpus")
    raw = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in contents).encode()
    plain, compressed = folder / "c.jsonl", folder / "c.jsonl.zst"
    plain.write_bytes(raw)
    compressed.write_bytes(b"".join(zstandard.compress(raw[at : at + frame]) for at in range(0, len(raw), frame)))
    assert texts(plain) == texts(compressed) == [(text,) for text in contents]
