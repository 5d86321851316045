"""What token files are said to hold is what they hold."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.blend import drawn_blend
from neox.data.datasets import build_datasets
from neox.data.inspection import Piece, document_tokens, inspect_store, packed_sample
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.store import NO_LABEL, StoreWriter
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import build_tokenizer
from tools import inspect_dataset

ROOT = Path(__file__).parents[2]
CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")
ALONE = Topology(0, 0, 1, 0, 1, 0, 1, 0, 1, torch.device("cpu"), "gloo")
TEXTS = ["a", "bcd", "efg", "hijklmn", "o" * 100]


@pytest.fixture
def prefix(tmp_path) -> str:
    (tmp_path / "c.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return preprocess(PreprocessJob([str(tmp_path / "c.jsonl")], str(tmp_path / "out"), CHARACTERS)).prefixes[0]


def test_counts_and_lengths(prefix):
    found = inspect_store(prefix)
    assert (found.facts.documents, found.shortest, found.longest, found.empty) == (5, 1, 100, 0)
    assert {2**index: int(count) for index, count in enumerate(found.histogram) if count} == {1: 1, 2: 2, 4: 1, 64: 1}


def test_documents_and_packed_samples(prefix):
    assert [bytes(tokens.tolist()).decode() for tokens in document_tokens(prefix, [3, 0])] == [TEXTS[3], "a"]
    tokenizer = build_tokenizer(CHARACTERS)
    first = [Piece(0, True, "a"), Piece(1, True, "bcd"), Piece(2, True, "e")]
    assert packed_sample(prefix, 0, 5, tokenizer) == first
    assert packed_sample(prefix, 1, 5, tokenizer) == [Piece(2, False, "fg"), Piece(3, True, "hij")]
    for wrong in (lambda: list(document_tokens(prefix, [5])), lambda: packed_sample(prefix, 23, 5, tokenizer)):
        with pytest.raises(ConfigError, match="there is no"):
            wrong()


def test_the_blend_is_drawn_as_training_draws_it(prefix):
    """The shares over the first samples are those of the blended dataset itself, which a share asked for is only close to."""
    paths = [f"{prefix}", f"{prefix}_b", f"{prefix}_c"]
    for other in paths[1:]:
        for suffix in (".bin", ".idx"):
            shutil.copyfile(f"{prefix}{suffix}", f"{other}{suffix}")
    data = DataConfig(train_data_paths=paths, train_data_weights=[5, 2, 1], valid_data_paths=paths[:1])
    rows = drawn_blend(data, 4, 10)
    assert [(row.prefix, row.share) for row in rows] == list(zip(paths, [0.625, 0.25, 0.125]))
    blended = build_datasets(data, 4, (10, 0, 0), build_tokenizer(CHARACTERS), 1, ALONE).train
    drawn = numpy.bincount(blended.dataset_index[:10], minlength=3)
    assert [row.drawn for row in rows] == (drawn / 10).tolist() != [row.share for row in rows]
    assert [row.times for row in rows] == pytest.approx(drawn * 4 / 114)
    (alone,) = drawn_blend(DataConfig(data_path=prefix, split="8,1,1"), 4, 10)
    assert (alone.share, alone.drawn) == (1, 1) and alone.times == pytest.approx(40 / 14)  # 4 of 5 documents


@pytest.fixture
def tool(capsys):
    """Run the tool, in this process."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        try:
            code = inspect_dataset.main(list(arguments))
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, said.out, said.err)

    return run


def test_tool(prefix):
    looked = ["--check", "--documents", "1", "--sample", "0", "--tokenizer-type", "CharLevelTokenizer"]
    command = [sys.executable, "tools/inspect_dataset.py", f"{prefix}.idx", *looked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for expected in (
        "5 documents, 114 tokens (uint16)",
        "64 - 127",
        "every byte is as",
        "\nbcd\n",
        "[[document 4]]ooo",
    ):
        assert expected in done.stdout


def test_tool_shows_what_is_learned(prefix, tmp_path, tool):
    labels = [numpy.frombuffer(text.encode(), dtype=numpy.uint8).astype(numpy.int32) for text in TEXTS]
    labels[3][[0, 3, 4]] = NO_LABEL
    with StoreWriter(tmp_path / "labels", numpy.int32) as store:
        for row in labels:
            store.add(row, numpy.array([row.size]))
        store.finish()
    options = ("--documents", "3", "--tokenizer-type", "CharLevelTokenizer")
    done = tool(prefix, *options, "--labels", f"{tmp_path}/labels")
    assert done.stdout.endswith("learned of document 3, 4 tokens\nij\nmn\n")
    done = tool(prefix, *options, "--labels", f"{tmp_path}/gone")
    assert done.returncode == 2 and "gone.idx" in done.stderr


def test_tool_finds_damage(prefix, tool):
    content = numpy.fromfile(f"{prefix}.bin", dtype=numpy.uint16)
    content[3] += 1
    content.tofile(f"{prefix}.bin")
    assert tool(prefix).returncode == 0
    done = tool(prefix, "--check")
    assert done.returncode == 2 and "out_text_document.bin: its SHA-256 is" in done.stderr
    Path(f"{prefix}.json").unlink()
    assert "no manifest" in tool(prefix).stdout
    assert tool(prefix, "--check").returncode == 2


def test_page_of_a_configuration(prefix, tmp_path, tool):
    """What a run reads, in one file that refers to no other."""
    config = {
        "train_data_paths": [prefix, prefix],
        "valid_data_paths": [prefix],
        "tokenizer_type": "CharLevelTokenizer",
    }
    (tmp_path / "data.yml").write_text(json.dumps(config))
    done = tool(
        "--configs",
        f"{ROOT}/configs/19M.yml",
        str(tmp_path / "data.yml"),
        "--first",
        "100",
        "--sample",
        "1",
        "--seq-length",
        "5",
        "--html",
        f"{tmp_path}/a.html",
    )
    assert done.returncode == 0, done.stderr
    assert "the mixture, over the first" in done.stdout and "50.000%" in done.stdout
    page = (tmp_path / "a.html").read_text()
    assert page.count("<svg") == page.count("</svg>") == 3
    assert '<b>...</b>fg</span><span class="odd"><b>document 3</b>hij</span>' in page
    assert not re.search(r'(src|href)="(?!#)', page)
    assert tool().returncode == 2
    assert "there is no document 9" in tool(prefix, "--documents", "9", "--tokenizer-type", "CharLevelTokenizer").stderr
