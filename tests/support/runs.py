"""Start real runs through `deepy.py` on small models, and read what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from neox.checkpoint.tensors import StateReader
from support.forks import Fork

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_SECONDS = 150

# 4 blocks, so that 4 pipeline stages have one each; clipping is active, so that a wrong norm shows in the next loss
TINY = {
    "num_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "pos_emb": "rotary",
    "rotary_pct": 0.5,
    "no_weight_tying": True,
    "tokenizer_type": "CharLevelTokenizer",
    "split": "90, 10, 0",
    "train_batch_size": 8,
    "train_iters": 4,
    "optimizer": {"type": "Adam", "params": {"lr": 1.0e-3}},
    "gradient_clipping": 0.5,
    "warmup": 0.25,
    "eval_interval": 2,
    "eval_iters": 1,
    "log_interval": 1,
    "precision": "fp32",
}


def write_config(folder: Path, data_prefix: Path, **keys) -> Path:
    """A config file of the tiny model in `folder`, with its log and checkpoint folders there."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        **TINY,
        "data_path": str(data_prefix),
        "log_dir": str(folder / "logs"),
        "save": str(folder / "checkpoints"),
        **keys,
    }
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
    return path


def start(
    script: str | Path, *arguments: str | Path, fresh: bool = False, **environment: str
) -> subprocess.Popen | Fork:
    """Start `deepy.py SCRIPT ARGUMENT...` in a process group of its own, one thread a process. Its processes fork from one that has
    imported what they need; where they are to be `fresh`, each is a new Python, as it is when a shell starts the launcher."""
    argv = ["deepy.py", str(script), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    if not fresh:
        return Fork(argv, environment)
    return subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen | Fork, expect: int | None = 0) -> str:
    """Wait for a run to end with the expected exit code, None for any; return what it printed."""
    try:
        output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        raise AssertionError(f"no end after {TIMEOUT_SECONDS} s:\n{output}") from None
    assert expect in (None, process.returncode), f"exit code {process.returncode}, not {expect}:\n{output}"
    return output


def run(
    script: str | Path, *arguments: str | Path, expect: int | None = 0, fresh: bool = False, **environment: str
) -> str:
    """Start a run, wait for its end, and return what it printed."""
    return finish(start(script, *arguments, fresh=fresh, **environment), expect)


def run_rows(
    root: Path,
    data_prefix: Path,
    rows: dict[str, dict],
    expect: int | None = 0,
    fresh: bool = False,
    **environment: str,
) -> str:
    """Train the rows, each in its folder of `root`, one after another in the processes of one launch; return what it printed."""
    configs = [write_config(root / name, data_prefix, **keys) for name, keys in rows.items()]
    listed = ":".join(map(str, configs))
    return run("tests/support/rows.py", configs[0], expect=expect, fresh=fresh, NEOX_ROWS=listed, **environment)


def assert_same_curve(measured: list, expected: list, tolerance: float = 1e-5) -> None:
    """Fail where two curves differ in length, or a value by more than the tolerance, relative or absolute."""
    torch.testing.assert_close(torch.tensor(measured), torch.tensor(expected), rtol=tolerance, atol=tolerance)


def curve(folder: Path, *names: str) -> list[tuple[float, ...]]:
    """The named metrics of each training iteration in order; an iteration done again counts once, as it was done last."""
    records = {}
    for line in (folder / "logs" / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        if all(name in record for name in names):
            records[record["iteration"]] = tuple(record[name] for name in names)
    return [records[iteration] for iteration in sorted(records)]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint, put together from the shards of its layout."""
    reader = StateReader(folder / "checkpoints" / f"global_step{step}")
    return {name: reader.shard(name, "weight", 0, 1) for name in sorted(reader.weights)}
