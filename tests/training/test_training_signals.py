"""What a signal does to the training loop, in whichever phase it comes: real signals to this process, and no model."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from support.loops import good_step, run_loop

from neox.checkpoint.publish import Progress
from neox.monitor.timers import Timers
from neox.training import signals as signals_module
from neox.training.signals import Asked, Signals

KEYS = {
    "num_layers": 1,
    "hidden_size": 8,
    "num_attention_heads": 1,
    "max_position_embeddings": 8,
    "train_micro_batch_size_per_gpu": 1,
    "train_iters": 10,
    "eval_interval": 4,
    "checkpoint_factor": 4,
    "save": "nowhere",
}


@pytest.fixture(autouse=True)
def handlers():
    """The signals of this process mean afterwards what they meant before."""
    changed = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in changed]
    yield
    for number, handler in zip(changed, before):
        signal.signal(number, handler)


class Run:
    """A run of ten steps that signals itself once, at step 4, in one of its phases."""

    device, synchronous = torch.device("cpu"), False
    timers = Timers(device, enabled=False)

    def __init__(self, phase: str, number: int):
        self.phase, self.number = phase, number
        self.steps = 0
        self.saved: list[int] = []
        self.outcome = self.train()

    def train(self):
        signals = Signals(SimpleNamespace(world_size=1, backend="gloo"))
        return run_loop(
            KEYS, engine=self, batches=self.batches(), evaluate=self.evaluate, save=self.save, signals=signals
        )

    def reach(self, phase: str) -> None:
        if phase == self.phase and self.steps == 4:
            os.kill(os.getpid(), self.number)

    def batches(self):
        while True:
            self.steps += 1
            self.reach("loading")
            yield None

    def train_step(self, batches, *_):
        next(batches)
        self.reach("step")
        return good_step()

    def evaluate(self) -> dict[str, float]:
        self.reach("evaluation")
        return {"validation/lm_loss": 1.0}

    def save(self, progress: Progress) -> None:
        self.reach("saving")
        self.saved.append(progress.iteration)


PHASES = {"loading": 4, "step": 4, "evaluation": 5, "saving": 5}  # and the step after which the signal is answered


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_stop_saves_once_and_ends(phase, number):
    """FAULTS 11: in the step, while data load, in the evaluation, in a save."""
    run = Run(phase, number)
    assert run.outcome.interrupted and run.outcome.saved
    assert run.saved == sorted({4, PHASES[phase]})


@pytest.mark.parametrize("phase", PHASES)
def test_a_save_saves_once_and_goes_on(phase):
    """FAULTS 12."""
    run = Run(phase, signal.SIGUSR1)
    assert not run.outcome.interrupted
    assert run.saved == sorted({4, PHASES[phase], 8, 10})


def test_a_signal_to_one_rank_is_answered_by_all(monkeypatch):
    """FAULTS 11 and 12: here the other rank hears SIGUSR1 and then SIGTERM, and this one hears SIGUSR1 a step later than it."""
    others = iter([[0, 1], [0, 1], [1, 1]])

    def with_the_other(counts, **_):
        counts.copy_(torch.maximum(counts, torch.tensor(next(others), dtype=counts.dtype)))

    monkeypatch.setattr(signals_module.distributed, "all_reduce", with_the_other)
    signals = Signals(SimpleNamespace(world_size=2, backend="gloo"))
    assert signals.agreed() == Asked(stop=False, save=True)
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.agreed() == Asked(stop=False, save=False)
    assert signals.agreed() == Asked(stop=True, save=False)


def test_the_same_signal_from_two_sides_is_one():
    """FAULTS 12: Slurm signals every process of a job, and the launcher passes it on."""
    signals = Signals(SimpleNamespace(world_size=1, backend="gloo"))
    for expected in (True, False):
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.agreed().save is expected
