"""However corpora are cut among shards, the shards one after another are the whole, to the byte."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data import records as records_module
from neox.data.manifest import read_manifest
from neox.data.merge import merge_stores
from neox.data.parts import read_part
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.records import Unpacking, read_records
from neox.data.shards import Shard

CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")
TEXTS = [f"{number} " * (number % 9) for number in range(60)]
LINES = "".join(json.dumps({"text": text, "meta": {"pile_set_name": f"S{len(text) % 3}"}}) + "\n" for text in TEXTS)
SUFFIXES = (".bin", ".json", ".idx")


def tar_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("a.jsonl", "b.jsonl"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.jsonl", "b.jsonl"):
            archive.writestr(name, content)
    return packed.getvalue()


def table_of(texts: list[str]) -> bytes:
    packed = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), packed)
    return packed.getvalue()


FORMATS = {
    "a.jsonl": LINES.encode(),
    "b.jsonl.zst": zstandard.compress(LINES[:900].encode()) + zstandard.compress(LINES[900:].encode()),
    "c.jsonl.gz": gzip.compress(LINES[:900].encode()) + b"\0" * 8 + gzip.compress(LINES[900:].encode()),
    "d.jsonl.xz": lzma.compress(LINES[:900].encode()) + lzma.compress(LINES[900:].encode()),
    "e.tar.gz": gzip.compress(tar_of(LINES.encode())),
    "f.zip": zip_of(LINES.encode()),
    "g.parquet": table_of(TEXTS),
    "h.jsonl": b"",
    "i.txt": "\n".join(TEXTS).encode(),
}


def merged(job: PreprocessJob, count: int, prefix: Path) -> list[bytes]:
    """The files of a job done in shards."""
    shards = [dataclasses.replace(job, shard=Shard(number, count)) for number in range(1, count + 1)]
    merge_stores([preprocess(shard).prefixes[0] for shard in shards], str(prefix))
    return [Path(f"{prefix}{suffix}").read_bytes() for suffix in SUFFIXES]


@pytest.mark.parametrize("names", [[name] for name in FORMATS if FORMATS[name]] + [list(FORMATS)])
@pytest.mark.parametrize("count", [2, 7])
def test_shards_of_every_format_are_the_whole(tmp_path, monkeypatch, names, count):
    monkeypatch.setattr(records_module, "BLOCK", 64)  # the smallest step at which a packed file is cut
    for name in names:
        (tmp_path / name).write_bytes(FORMATS[name])
    job = PreprocessJob([str(tmp_path / name) for name in names], str(tmp_path / "out"), CHARACTERS, text_unit="line")
    whole = preprocess(job).prefixes[0]
    expected = [Path(f"{whole}{suffix}").read_bytes() for suffix in SUFFIXES]
    assert merged(job, count, tmp_path / "merged") == expected
    shares = [read_manifest(f"{job.output_prefix}_{n:05}-of-{count:05}_text_document") for n in range(1, count + 1)]
    if names[0] in ("a.jsonl", "b.jsonl.zst", "c.jsonl.gz", "d.jsonl.xz"):  # the others are read in larger steps
        assert all(share["documents"] for share in shares if count == 2), "both have work"


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    ends=st.booleans(),
    cuts=st.integers(1, 8),
)
def test_each_line_is_in_one_part(tmp_path_factory, lines, ends, cuts):
    path = tmp_path_factory.mktemp("lines") / "corpus.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n" * ends)
    parts = [Shard(number + 1, cuts).of([path], [path.stat().st_size]) for number in range(cuts)]
    whole, pieces = [], []
    with open(path, "rb") as file:
        whole = [record.content for record in read_records(str(path), file, Unpacking())]
    for part in (part for parts_of_one in parts for part in parts_of_one):
        with open(path, "rb") as file:
            pieces += [record.content for record in read_part(part, str(path), file, Unpacking())]
    assert pieces == whole


@given(sizes=st.lists(st.integers(0, 1000), min_size=1, max_size=30), count=st.integers(1, 30))
@example(sizes=[0], count=2)
def test_every_byte_has_one_shard_and_shards_are_alike(sizes, count):
    paths = [Path(str(number)) for number in range(len(sizes))]
    shares = [Shard(number + 1, count).of(paths, sizes) for number in range(count)]
    bytes_of = [sum(part.end - part.begin for part in share) for share in shares]
    assert sum(bytes_of) == sum(sizes) and max(bytes_of) - min(bytes_of) <= 1
    begun = [part.path for share in shares for part in share if part.begin == 0]
    assert begun == paths, "each file begins in one shard, in order"


def test_a_bad_line_of_a_part_can_be_found(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES + "{\n" + LINES)
    job = PreprocessJob([str(tmp_path / "a.jsonl")], str(tmp_path / "out"), CHARACTERS, shard=Shard(2, 4))
    with pytest.raises(ConfigError, match=r"a\.jsonl \(from byte [\d,]+\):\d+: it is not JSON") as caught:
        preprocess(job)
    place = str(caught.value).partition("from byte ")[2]
    begin, line = int(place.split(")")[0].replace(",", "")), int(place.split(":")[1])
    after = (tmp_path / "a.jsonl").read_bytes()[begin - 1 :]  # what `tail -c +BYTE` shows
    assert after.split(b"\n")[line - 1] == b"{"


def test_parts_that_are_missing_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES)
    job = PreprocessJob([str(tmp_path / "a.jsonl")], str(tmp_path / "out"), CHARACTERS)
    first, second = (
        preprocess(dataclasses.replace(job, shard=Shard(n, 2), output_prefix=str(tmp_path / f"o{n}"))).prefixes[0]
        for n in (1, 2)
    )
    for prefix, alone in ((first, "x"), (second, "y")):
        for suffix in SUFFIXES:  # under names that do not tell that they are shards
            Path(f"{prefix}{suffix}").rename(tmp_path / f"{alone}{suffix}")
        with pytest.raises(ConfigError, match=r"a\.jsonl: what is (after|before) its byte [\d,]+ is in no input"):
            merge_stores([str(tmp_path / alone)], str(tmp_path / "merged"))
    with pytest.raises(ConfigError, match="standard input cannot be shared"):
        preprocess(dataclasses.replace(job, inputs=["-"], shard=Shard(1, 2)))
