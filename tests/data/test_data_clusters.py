"""Shards of a job on a real Slurm and a real Ray cluster: joined, they are what one machine writes, to the byte."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.clusters import ray_cluster, slurm
from support.runs import ROOT

from neox.data.store import check_store

SUFFIXES = (".bin", ".json", ".idx")


@pytest.fixture
def corpus(tmp_path) -> Path:
    """One file, which a cluster must cut."""
    lines = (
        {"text": f"{number} " * (number % 50), "meta": {"pile_set_name": f"S{number % 3}"}} for number in range(300)
    )
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path / "c.jsonl"


def options(corpus: Path, name: str) -> list[str]:
    prefix = str(corpus.with_name(name))
    return ["--input", str(corpus), "--output-prefix", prefix, "--tokenizer-type", "CharLevelTokenizer", "--append-eod"]


def preprocess(*arguments: str, tool: str = "preprocess_data") -> subprocess.CompletedProcess:
    command = [sys.executable, f"tools/{tool}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def content(corpus: Path, name: str) -> list[bytes]:
    return [corpus.with_name(f"{name}_text_document{suffix}").read_bytes() for suffix in SUFFIXES]


def alone(corpus: Path) -> list[bytes]:
    """What one machine writes."""
    assert preprocess(*options(corpus, "alone"), "--workers", "1").returncode == 0
    return content(corpus, "alone")


def test_slurm_array(corpus, tmp_path):
    """The shipped script, as its own comment says."""
    with slurm(tmp_path / "slurm") as environ:
        environ = os.environ | environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

        def submit(*arguments: str) -> str:
            command = ["sbatch", "--parsable", f"--output={tmp_path}/%A_%a.log", *arguments]
            return subprocess.run(
                command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True
            ).stdout.strip()

        script = ["--array=1-2", "--cpus-per-task=1", "configs/preprocess_array.sbatch"]
        array = submit(*script, *options(corpus, "out"))
        parts, merged = tmp_path / "out_*-of-00002_text_document.idx", tmp_path / "merged_text_document"
        join = f"python tools/merge_datasets.py --input {parts} --output-prefix {merged}"
        submit(f"--dependency=afterok:{array}", "--wait", "--wrap", join)
    logs = "\n".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert content(corpus, "merged") == alone(corpus), logs
    assert all(check_store(f"{tmp_path}/out_0000{number}-of-00002_text_document").documents for number in (1, 2))


def test_ray(corpus):
    """Two nodes do the shards; a bad record is told as it is by one machine; what no machine can do is refused."""
    expected = alone(corpus)
    with ray_cluster(cores=1) as address:
        done = preprocess(*options(corpus, "out"), "--workers", "1", "--ray", address)
        assert done.returncode == 0, done.stdout + done.stderr
        assert content(corpus, "out") == expected
        assert "shard 2 of 2 done" in done.stdout and re.search(
            r"tokens of 98 documents, 0\.9\d bytes a token, in S2", done.stdout
        )
        assert not list(corpus.parent.glob("*-of-*")), "nothing is left of the shards"

        corpus.write_text(corpus.read_text() + "{\n")
        failed = preprocess(*options(corpus, "bad"), "--workers", "1", f"--ray={address}")
        assert failed.returncode == 2 and "Traceback" not in failed.stderr, failed.stderr
        assert re.search(
            r"error: shard 2 of 2 failed on .*c\.jsonl \(from byte [\d,]+\):\d+: it is not JSON", failed.stderr
        )
        assert not list(corpus.parent.glob("bad_text_document*"))

        refused = preprocess(*options(corpus, "wide"), "--workers", "2", "--ray", address)
        assert refused.returncode == 2 and "--workers: 2 cores are more than any machine" in refused.stderr


def test_ray_is_optional(corpus, monkeypatch):
    (corpus.parent / "ray.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", str(corpus.parent))
    done = preprocess(*options(corpus, "out"), "--ray", "auto")
    assert (done.returncode, done.stderr) == (
        2,
        "error: --ray needs `pip install ray`, the release that the cluster runs\n",
    )
    assert preprocess(*options(corpus, "out"), "--shards", "2").returncode == 2
    assert preprocess(*options(corpus, "out"), "--ray", "auto", "--shard", "1/2").returncode == 2
