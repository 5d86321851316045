"""Readers: what a document is in each format, and every bad record named by file and line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.data.corpus import documents, find_corpora

LINES = b'{"text": "one", "title": "A"}\n{"text": "two\\r\\n", "title": "B"}\n'


def texts(path: Path, keys=("text",), **keywords) -> list[tuple[str, ...]]:
    return [document.texts for document in documents(path, keys, **keywords)]


def file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(zstandard.compress(content) if name.endswith(".zst") else content)
    return path


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst"])
def test_json_lines(tmp_path, name):
    path = file(tmp_path, name, LINES)
    assert texts(path) == [("one",), ("two\r\n",)]
    assert texts(path, ("title", "text")) == [("A", "one"), ("B", "two\r\n")]
    assert [document.place for document in documents(path)] == [f"{path}:1", f"{path}:2"]
    assert list(documents(path))[-1].position == path.stat().st_size


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst"])
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


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst"])
@pytest.mark.parametrize("line, complaint", BAD_LINES)
def test_bad_record_stops_with_file_and_line(tmp_path, name, line, complaint):
    path = file(tmp_path, name, LINES + line + b"\n" + LINES)
    with pytest.raises(ConfigError, match=f"{name}:3: {complaint}"):
        texts(path)


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.zst"])
def test_bad_records_can_be_left_out(tmp_path, name):
    path = file(tmp_path, name, b"".join(line + b"\n" + LINES for line, _ in BAD_LINES))
    complaints = []
    assert len(texts(path, complain=lambda place, _: complaints.append(place))) == 2 * len(BAD_LINES)
    assert complaints == [f"{path}:{1 + 3 * index}" for index in range(len(BAD_LINES))]


@pytest.mark.parametrize("cut", [6, 100_000, 249_990])
def test_truncated_zstd(tmp_path, cut):
    lines = b"".join(
        json.dumps({"text": f"{number * 7919 % 1_000_003:x}" * 5}).encode() + b"\n" for number in range(60_000)
    )
    path = file(tmp_path, "c.jsonl.zst", lines)
    whole = path.read_bytes()
    assert len(whole) > 250_000
    path.write_bytes(whole[:cut])
    with pytest.raises(ConfigError, match=r"c\.jsonl\.zst:\d+: the zstd stream is damaged or cut off"):
        texts(path)
    complaints = []
    assert len(texts(path, complain=lambda *complaint: complaints.append(complaint))) < 60_000
    assert len(complaints) == 1


def test_not_a_zstd_file(tmp_path):
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(LINES)
    with pytest.raises(ConfigError, match=r"c\.jsonl\.zst:1: the zstd stream is damaged"):
        texts(path)


def test_text_that_is_not_utf8_and_a_key_it_has_not(tmp_path):
    with pytest.raises(ConfigError, match=r"play\.txt: it is not UTF-8 \(byte 4\)"):
        texts(file(tmp_path, "play.txt", b"abc\xff"))
    with pytest.raises(ConfigError, match=r"play\.txt: there is no key 'title'"):
        texts(file(tmp_path, "play.txt", b"abc"), ("text", "title"))


def test_files_are_found_or_complained_about_together(tmp_path):
    first, second = file(tmp_path, "a.jsonl", LINES), file(tmp_path, "b.txt", b"x")
    assert find_corpora([str(first), str(second)]) == find_corpora([f"{first},{second}"]) == [first, second]
    with pytest.raises(ConfigError) as caught:
        find_corpora([str(first), "gone.jsonl", "table.csv"])
    assert caught.value.complaints == [
        "gone.jsonl: there is no such file",
        "table.csv: its suffix is not one of .jsonl, .jsonl.zst, .txt",
    ]


def test_long_file_is_streamed(tmp_path):
    path = tmp_path / "c.jsonl.zst"
    path.write_bytes(zstandard.compress(b'{"text": "' + b"abcdefgh" * 1_000 + b'"}\n') * 4_000)  # 32 MB of text
    tracemalloc.start()
    count = sum(1 for _ in documents(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 4_000
    assert peak < 4_000_000


@settings(max_examples=60, deadline=None)
@given(contents=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1), frame=st.integers(1, 50))
def test_what_goes_in_comes_out(tmp_path_factory, contents, frame):
    folder = tmp_path_factory.mktemp("corpus")
    raw = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in contents).encode()
    plain, compressed = folder / "c.jsonl", folder / "c.jsonl.zst"
    plain.write_bytes(raw)
    compressed.write_bytes(b"".join(zstandard.compress(raw[at : at + frame]) for at in range(0, len(raw), frame)))
    assert texts(plain) == texts(compressed) == [(text,) for text in contents]
