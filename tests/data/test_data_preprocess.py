"""From corpora to token files, through the function and through the tool."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import tokenizers

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data import encode as encode_module
from neox.data import record_batches
from neox.data.manifest import check_hashes, read_manifest
from neox.data.parts import read_part
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.samples import IndexedDataset
from neox.data.shards import Shard
from neox.data.store import check_store

ROOT = Path(__file__).parents[2]
CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, [f"document {number} " * (number % 7 + 1) for number in range(50)])
    return path


def write_corpus(path: Path, texts: list[str], **others) -> None:
    path.write_text("".join(json.dumps({"text": text} | others) + "\n" for text in texts))


def job(corpus: Path, **changes) -> PreprocessJob:
    settings = PreprocessJob([str(corpus)], str(corpus.with_name("out")), CHARACTERS)
    return dataclasses.replace(settings, **changes)


SUFFIXES = (".bin", ".json", ".idx")


def content(prefix: str | Path) -> list[bytes]:
    """The bytes of all that was written under a prefix."""
    return [Path(f"{prefix}_text_document{suffix}").read_bytes() for suffix in SUFFIXES]


def stored(prefix: str | Path) -> list[bytes]:
    """The documents of a store of characters."""
    check_store(prefix)
    store = IndexedDataset(str(prefix))  # its arrays are views of a map that it closes when it goes
    return [bytes(store[index].tolist()) for index in range(len(store))]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_documents_in_order_with_their_end(corpus):
    result = preprocess(job(corpus, append_eod=True))
    expected = [f"document {number} ".encode() * (number % 7 + 1) + b"\0" for number in range(50)]
    assert stored(result.prefixes[0]) == expected
    assert result.prefixes == [str(corpus.with_name("out_text_document"))]
    assert result.progress.documents == 50
    assert result.progress.tokens == sum(map(len, expected))
    assert result.progress.text_bytes == sum(map(len, expected)) - 50
    assert result.progress.read_bytes == result.progress.total_bytes == corpus.stat().st_size


def test_workers_change_nothing(corpus, monkeypatch):
    preprocess(job(corpus, output_prefix=str(corpus.with_name("whole"))))
    # many batches, so that they can come back in another order
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 40)
    preprocess(job(corpus, output_prefix=str(corpus.with_name("parallel")), workers=3))
    assert content(corpus.with_name("whole")) == content(corpus.with_name("parallel"))


def test_several_files_and_a_limit(tmp_path, corpus):
    other = tmp_path / "play.txt"
    other.write_text("a play")
    result = preprocess(job(corpus, inputs=[str(other), str(corpus)], num_docs=2))
    assert stored(result.prefixes[0]) == [b"a play", b"document 0 "]


def test_each_key_has_its_own_text(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"text": "body", "title": "head"}\n{"text": "body 2", "title": ""}\n{"text": "", "title": ""}\n')
    result = preprocess(job(path, jsonl_keys=("text", "title"), append_eod=True))
    assert stored(tmp_path / "out_text_document") == [b"body\0", b"body 2\0"]
    assert stored(tmp_path / "out_title_document") == [b"head\0", b"\0"]
    assert result.tally.empty_documents == 1
    assert read_manifest(tmp_path / "out_title_document")["subsets"][""] == {
        "documents": 2,
        "text_bytes": 4,
        "tokens": 6,
    }


def test_empty_documents_are_counted_and_left_out(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, ["", "one", "", "two", ""])
    result = preprocess(job(path, append_eod=True))
    assert stored(result.prefixes[0]) == [b"one\0", b"two\0"]
    assert (result.tally.empty_documents, result.progress.documents) == (3, 2)


@pytest.mark.parametrize("content", ["", "\n\n", '{"text": ""}\n'])
def test_no_document_writes_nothing(tmp_path, content):
    path = tmp_path / "corpus.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"no document with text in .*corpus\.jsonl: nothing is written"):
        preprocess(job(path, append_eod=True))
    assert names(tmp_path) == ["corpus.jsonl"]


def test_bad_record_stops_and_leaves_the_old_output(tmp_path, corpus):
    preprocess(job(corpus))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    before[corpus.name] += b"{\n"
    corpus.write_bytes(before[corpus.name])
    for workers in (1, 2):
        with pytest.raises(ConfigError, match=r"corpus\.jsonl:51: it is not JSON.*--on-error skip"):
            preprocess(job(corpus, workers=workers))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_bad_records_can_be_skipped(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{\n{"text": "one"}\n' + b"[]\n" * 20 + b'{"text": "\xff"}\n{"text": "two"}\n')
    result = preprocess(job(path, skip_bad_records=True))
    assert stored(result.prefixes[0]) == [b"one", b"two"]
    assert result.tally.bad_records == 22
    assert len(result.tally.complaints) == 10
    assert result.tally.complaints[1] == f"{path}:3: it is not a JSON object"


def test_large_vocabulary_is_stored_as_int32(tmp_path):
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<unk>": 0, "sea": 65_499}, unk_token="<unk>"))
    engine.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    engine.save(str(tmp_path / "tokenizer.json"))
    corpus = tmp_path / "corpus.jsonl"
    write_corpus(corpus, ["sea sky sea"])
    words = TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(tmp_path / "tokenizer.json"))
    result = preprocess(job(corpus, tokenizer=words))
    assert check_store(result.prefixes[0]).dtype == "int32"
    store = IndexedDataset(result.prefixes[0])
    assert store[0].tolist() == [65_499, 0, 65_499]
    with pytest.raises(ConfigError, match="append_eod: .* has no token that ends a document"):
        preprocess(job(corpus, tokenizer=words, append_eod=True))


def test_ftfy_mends_text(tmp_path):
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, ["cafÃ©"])
    assert stored(preprocess(job(path, ftfy=True)).prefixes[0]) == ["café".encode()]


def test_keys_that_cannot_name_a_file(corpus):
    with pytest.raises(ConfigError) as caught:
        preprocess(job(corpus, jsonl_keys=("text", "../x", "text")))
    assert len(caught.value.complaints) == 2


def test_manifest(tmp_path, corpus):
    other = tmp_path / "named.jsonl"
    write_corpus(other, ["with a name", ""], meta={"pile_set_name": "Books"})
    result = preprocess(job(corpus, inputs=[str(corpus), str(other)], append_eod=True))
    found = read_manifest(result.prefixes[0])
    check_hashes(result.prefixes[0], found)
    assert found["sources"] == [
        {"path": str(path), "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in (corpus, other)
    ]
    assert found["tokenizer"] == {
        "type": "CharLevelTokenizer", "vocab_size": 512, "eod": 0, "vocab_file": None, "merge_file": None
    }  # fmt: skip
    assert found["subsets"]["Books"] == {"documents": 1, "text_bytes": 11, "tokens": 12}
    assert (found["documents"], found["empty_documents"], found["dtype"]) == (51, 1, "uint16")
    assert found["tokens"] == result.progress.tokens == sum(map(len, stored(result.prefixes[0])))
    Path(f"{result.prefixes[0]}.bin").write_bytes(b"x" * Path(f"{result.prefixes[0]}.bin").stat().st_size)
    with pytest.raises(ConfigError, match=r"\.bin: its SHA-256 is .* the file is damaged"):
        check_hashes(result.prefixes[0], found)


def test_standard_input(corpus):
    where = ("--output-prefix", corpus.with_name("out"), "--tokenizer-type", "CharLevelTokenizer", "--workers", "1")
    command = [sys.executable, "tools/preprocess_data.py", "--input", "-", *map(str, where)]
    done = subprocess.run(command, cwd=ROOT, input=corpus.read_bytes(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(stored(corpus.with_name("out_text_document"))) == 50
    done = subprocess.run(command, cwd=ROOT, input=b'{"text": "x"}\n{', capture_output=True, check=False)
    assert done.returncode == 2 and b"stdin.jsonl:2: it is not JSON" in done.stderr
    assert names(corpus.parent) == ["corpus.jsonl", *(f"out_text_document{suffix}" for suffix in sorted(SUFFIXES))]


def test_shards_one_after_another_are_the_whole(tmp_path):
    for number in range(7):
        write_corpus(tmp_path / f"{number}.jsonl", [f"{number} " * (number + 1)] * 20)
    preprocess(job(tmp_path / "x", inputs=[str(tmp_path)], output_prefix=str(tmp_path / "whole")))
    parts = [
        preprocess(job(tmp_path / "x", inputs=[f"{tmp_path}/*.jsonl"], shard=Shard(number, 3))).prefixes[0]
        for number in (1, 2, 3)
    ]
    assert parts[0] == str(tmp_path / "out_00001-of-00003_text_document")
    assert [text for part in parts for text in stored(part)] == stored(tmp_path / "whole_text_document")


def test_memory_does_not_grow_with_the_corpus(tmp_path, monkeypatch):
    """The reader is never more than a few batches ahead of the writer."""
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 1)  # a batch for each document
    path = tmp_path / "corpus.jsonl"
    write_corpus(path, ["x"] * 100)
    read = []
    monkeypatch.setattr(
        record_batches,
        "read_part",
        lambda *arguments: (read.append(record) or record for record in read_part(*arguments)),
    )
    ahead = []
    preprocess(job(path, workers=2), lambda progress: ahead.append(len(read) - progress.documents))
    assert 0 < max(ahead) <= encode_module.BATCHES_PER_WORKER * 2


def tool(
    *arguments: str | Path, launch: tuple[str, ...] = ("tools/preprocess_data.py",)
) -> subprocess.CompletedProcess:
    command = [sys.executable, *launch, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("launch", [("tools/preprocess_data.py",), ("-m", "tools.preprocess_data")])
def test_tool(corpus, launch):
    done = tool(
        "--input", corpus, "--output-prefix", corpus.with_name("deep") / "er" / "out", "--tokenizer-type",
        "CharLevelTokenizer", "--append-eod", "--workers", 2, launch=launch,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    prefix = corpus.with_name("deep") / "er" / "out_text_document"
    assert len(stored(prefix)) == 50
    assert f"{prefix}.bin, .idx and .json written (uint16)" in done.stdout
    assert "50 documents, 2," in done.stdout


def test_tool_exit_codes(corpus):
    where = ("--output-prefix", corpus.with_name("out"), "--tokenizer-type", "CharLevelTokenizer")
    for arguments in (
        ("--input", corpus.with_name("gone.jsonl"), *where),
        ("--input", corpus, "--jsonl-keys", "body", *where),
        ("--input", corpus, *where, "--workers", 0),
        ("--input", corpus, "--output-prefix", "/proc/none/out", "--tokenizer-type", "CharLevelTokenizer"),
        ("--input", corpus, "--output-prefix", corpus.with_name("out"), "--tokenizer-type", "GPT2BPETokenizer"),
    ):
        done = tool(*arguments)
        assert done.returncode == 2, arguments
        assert "error:" in done.stderr and "Traceback" not in done.stderr
    assert names(corpus.parent) == ["corpus.jsonl"]
    assert tool("--input", corpus, "--jsonl-keys", "body", "--on-error", "skip", *where).returncode == 2
    assert names(corpus.parent) == ["corpus.jsonl"]


def test_full_disk(corpus):
    """A limit on the size of files stands for a disk that is full: writing fails half way."""
    command = f"ulimit -f 1; exec {sys.executable} tools/preprocess_data.py --input {corpus} --output-prefix "
    command += f"{corpus.with_name('out')} --tokenizer-type CharLevelTokenizer --workers 1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        "File too large: nothing was written" in done.stderr
        and "start the same command again" in done.stderr
        and "Traceback" not in done.stderr
    )
    assert names(corpus.parent) == ["corpus.jsonl"]
