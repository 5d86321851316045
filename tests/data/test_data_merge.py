"""Token files joined: the shards of a job are the job, and what does not belong together is refused."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data import merge as merge_module
from neox.data.merge import merge_stores
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.samples import IndexedDataset
from neox.data.shards import Shard
from neox.data.store import StoreWriter

ROOT = Path(__file__).parents[2]
SUFFIXES = (".bin", ".json", ".idx")


@pytest.fixture
def job(tmp_path) -> PreprocessJob:
    for number in range(5):
        documents = [
            {"text": f"{number} {line} " * (line % 7), "meta": {"pile_set_name": f"S{line % 3}"}} for line in range(30)
        ]
        (tmp_path / f"{number}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    characters = TokenizerConfig(tokenizer_type="CharLevelTokenizer")
    return PreprocessJob([f"{tmp_path}/*.jsonl"], str(tmp_path / "out"), characters, append_eod=True)


def shards(job: PreprocessJob, count: int) -> list[str]:
    return [preprocess(dataclasses.replace(job, shard=Shard(n + 1, count))).prefixes[0] for n in range(count)]


@pytest.mark.parametrize("block", [8_000_000, 50])
def test_shards_of_a_job_become_the_job_byte_for_byte(job, tmp_path, monkeypatch, block):
    monkeypatch.setattr(merge_module, "BLOCK_TOKENS", block)
    whole = preprocess(job).prefixes[0]
    facts = merge_stores(shards(job, 3), str(tmp_path / "merged"))
    for suffix in SUFFIXES:
        assert (tmp_path / f"merged{suffix}").read_bytes() == Path(f"{whole}{suffix}").read_bytes()
    assert facts.documents == len(IndexedDataset(str(tmp_path / "merged")))


def test_tool_and_a_missing_shard(job, tmp_path):
    parts = [f"{prefix}.idx" for prefix in shards(job, 3)]
    command = [sys.executable, "tools/merge_datasets.py", "--output-prefix", str(tmp_path / "merged"), "--input"]
    done = subprocess.run([*command, *parts], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "125 documents" in done.stdout
    for wrong in (parts[:2], [parts[1], parts[0], parts[2]]):
        done = subprocess.run([*command, *wrong], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and "error: the shards are not 1 to 3" in done.stderr


def test_what_does_not_belong_together(job, tmp_path):
    first = preprocess(job).prefixes[0]
    other = preprocess(dataclasses.replace(job, output_prefix=str(tmp_path / "other"), append_eod=False)).prefixes[0]
    with pytest.raises(
        ConfigError, match="append_eod: .*out_text_document has True, and .*other_text_document has False"
    ):
        merge_stores([first, other], str(tmp_path / "merged"))
    with StoreWriter(tmp_path / "wide", numpy.int32) as store:
        store.add(numpy.array([1, 2], numpy.int32), numpy.array([2]))
        store.finish()
    with pytest.raises(ConfigError, match="dtype: .* has uint16, and .*wide has int32"):
        merge_stores([first, str(tmp_path / "wide")], str(tmp_path / "merged"))
    with pytest.raises(ConfigError, match="there is no file .*gone.idx"):
        merge_stores([first, str(tmp_path / "gone")], str(tmp_path / "merged"))
    content = bytearray(Path(f"{first}.bin").read_bytes())
    content[7] ^= 1
    Path(f"{first}.bin").write_bytes(content)
    with pytest.raises(ConfigError, match="out_text_document.bin: its SHA-256 is not the one in its manifest"):
        merge_stores([first, first], str(tmp_path / "merged"))
    assert not list(tmp_path.glob("merged*"))


def test_documents_of_several_sequences_are_refused(tmp_path):
    import torch  # noqa: PLC0415 (seconds to import, as is what follows)
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder  # noqa: PLC0415

    builder = IndexedDatasetBuilder(str(tmp_path / "theirs.bin"), dtype=numpy.uint16)
    builder.add_document(torch.arange(5), [2, 3])
    builder.finalize(str(tmp_path / "theirs.idx"))
    with pytest.raises(ConfigError, match="its documents have several sequences"):
        merge_stores([str(tmp_path / "theirs")], str(tmp_path / "merged"))
