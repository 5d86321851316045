"""A run killed at any instant, and started again, ends as if nothing had been: losses and weights equal bit for bit."""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.runs import ROOT, curve, weights, write_config

STEPS = 4
KEYS = {
    "num_layers": 2,
    "train_iters": STEPS,
    "checkpoint_factor": 1,
    "keep_last_n_checkpoints": 2,
    "eval_iters": 0,
    "hidden_dropout": 0.1,
    "zero_optimization": {"stage": 1},
}
METRICS = ("train/lm_loss", "train/grad_norm", "train/learning_rate", "train/consumed_tokens")
POINTS = (
    "mid_shard:half:2",
    "before_manifest:kill9:2",
    "before_rename:kill9:2",
    "before_latest:kill9:2",
    "after_latest:kill9:2",
)
# seeds of one launch, and its processes: the first is what every change runs, make test-long runs 200 more
BLOCKS = [
    (range(4), 1),
    *(
        pytest.param(range(20 * block, 20 * block + 20), 1 + block % 2, marks=pytest.mark.long)
        for block in range(5, 15)
    ),
]


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    """An empty folder in memory where there is such a file system: these runs do little else than wait for the disk, and no
    power is cut here."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="neox-kills-") as folder:
        yield Path(folder)


def live_and_die(folder: Path, data: Path, processes: int, lives: dict[str, tuple[bool, list]]) -> int:
    """Make the uninterrupted run and those of `lives` (asynchronous saving, how lives end), compare, and count the deaths."""
    keys = KEYS | {"num_gpus": processes}
    runs = [{"config": str(write_config(folder / "straight", data, **keys)), "ends": []}]
    for name, (asynchronous, ends) in lives.items():
        config = write_config(folder / name, data, **keys, checkpoint_asynchronous=asynchronous)
        runs.append({"config": str(config), "ends": ends})
    spec = folder / "runs.json"
    spec.write_text(json.dumps(runs))
    environment = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    done = subprocess.run(
        [sys.executable, "-m", "support.kills", str(spec)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "once more" not in done.stderr, "what the life before has left is in the way of a save"
    expected, final = curve(folder / "straight", *METRICS), weights(folder / "straight", STEPS)
    for name in lives:
        assert curve(folder / name, *METRICS) == expected, f"{name}: other losses"
        ended = weights(folder / name, STEPS)
        assert all(torch.equal(ended[weight], final[weight]) for weight in final), f"{name}: other weights"
        assert not [*(folder / name / "checkpoints").glob(".*")], f"{name}: something was left behind"
    return int(re.search(r"^(\d+) lives cut short$", done.stdout, re.MULTILINE)[1])


@pytest.mark.timeout(3000)
@pytest.mark.parametrize(("seeds", "processes"), BLOCKS)
def test_kills_at_random_instants(seeds: range, processes: int, char_data: Path, in_memory: Path) -> None:
    """FAULTS 4: each seed draws a way to save, and one to three deaths, each of a rank, of the launcher, or of all ranks."""
    victims = [*range(processes), "launcher", *(["all"] if processes > 1 else [])]
    lives = {}
    for seed in seeds:
        draw = random.Random(seed)
        deaths = [(draw.choice(victims), draw.random()) for _ in range(draw.randint(1, 3))]
        lives[f"seed{seed}"] = (draw.random() < 0.5, deaths)
    deaths = live_and_die(in_memory, char_data, processes, lives)
    print(f"{deaths} deaths of {len(lives)} runs")
    assert deaths >= len(lives) // 2, "the kills come too late to mean anything"


def test_kills_at_every_point_of_a_save(char_data: Path, in_memory: Path) -> None:
    """FAULTS 2 and 3, while training waits and while it goes on."""
    ways = [(True, point) for point in POINTS] + [(False, point) for point in POINTS[:2]]
    lives = {f"{point.partition(':')[0]}-{asynchronous}": (asynchronous, [point]) for asynchronous, point in ways}
    assert live_and_die(in_memory, char_data, 2, lives) == len(lives)
