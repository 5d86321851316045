"""Between two logged steps the host does not wait for the device: it has no reason to ask for a value."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import torch
from support.loops import good_step, run_loop
from support.waits import waits, waits_of_steps
from support.workers import run_workers

from neox.monitor.timers import Timers
from neox.training.engine import StepResult
from neox.training.signals import Asked


def stage(number: int) -> dict:
    return {"precision": "bf16", "zero_optimization": {"stage": number}}


def test_steps_of_replicas_ask_for_nothing(tmp_path: Path) -> None:
    rows = {
        "fp32": {"zero_optimization": {"stage": 0}},
        "bf16": stage(0),
        "recomputed": {**stage(0), "checkpoint_activations": True},
        "local": {**stage(0), "attention_config": [[["global", "local"], 1]], "window_size": 4, "pos_emb": "rotary"},
        "zero1": stage(1),
        "zero2": stage(2),
    }
    found = run_workers(waits_of_steps, tmp_path, processes=2, rows=list(rows.values()), steps=2)
    for rank in found:
        assert dict(zip(rows, rank)) == {name: [] for name in rows}


class OnGpu:
    """An engine as the loop sees it where results stay on a device; it notes what was asked for before each of its steps."""

    device, synchronous = torch.device("cpu"), False
    timers = Timers(device, enabled=False)

    def __init__(self, places: list[str]):
        self.places = places
        self.asked_before: list[int] = []

    def train_step(self, _batches, _rate: float, _admits: None) -> StepResult:
        self.asked_before.append(len(self.places))
        return good_step()


def test_the_loop_asks_for_results_at_logged_steps_alone() -> None:
    model = {"num_layers": 1, "hidden_size": 8, "num_attention_heads": 1, "max_position_embeddings": 8}
    keys = {**model, "train_micro_batch_size_per_gpu": 1, "train_iters": 9, "log_interval": 4}
    with waits() as places:
        engine = OnGpu(places)
        silent = SimpleNamespace(agreed=lambda: Asked(stop=False, save=False))
        run_loop(keys, engine=engine, batches=iter([]), signals=silent)
    changes = [
        step for step, (before, after) in enumerate(pairwise([*engine.asked_before, len(places)]), 1) if after > before
    ]
    assert changes == [4, 8, 9], "and the last"
