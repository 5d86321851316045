"""The training loop with stand-ins around an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from neox.checkpoint.publish import Progress
from neox.config.read import config_from_values
from neox.monitor.metrics import Throughput
from neox.training.engine import StepResult
from neox.training.loop import Outcome, train
from neox.training.watchdog import Watchdog


def run_loop(keys: dict, *, engine: Any, batches: Any, signals: Any, evaluate: Any = None, save: Any = None) -> Outcome:
    """Train as the configuration keys say; what is reported goes nowhere."""
    return train(
        config_from_values(keys),
        engine=engine,
        batches=batches,
        evaluate=evaluate,
        save=save,
        guard=None,
        rollback=lambda: None,
        progress=Progress(),
        reporters=SimpleNamespace(report=lambda *_: None),
        throughput=Throughput(
            samples_per_step=1, tokens_per_sample=8, flops_per_token=1, processes=1, peak_tflops=None
        ),
        profile=None,
        signals=signals,
        watchdog=Watchdog(None),
    )


def good_step() -> StepResult:
    """What an engine returns of a step that went well."""
    return StepResult(loss=torch.ones(()), measures={}, grad_norm=torch.ones(()), skipped=False, loss_scale=None)
