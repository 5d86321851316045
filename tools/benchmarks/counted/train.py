"""train.py with its memory counted. Started by `tools/bench.py memory` through deepy.py, which knows it by its name.

On a CPU it needs counter.c preloaded. Writes rank<N>.json into the folder that MEMORY_FOLDER names.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

import torch
from deepspeed.runtime.engine import DeepSpeedEngine
from deepspeed.runtime.pipe.engine import PipelineEngine

from neox.config.handover import config_from_argv
from neox.model.gpt import GPT
from neox.training.engine import Engine
from neox.training.pretrain import pretrain


class Counter:
    """Bytes held by this process beyond those that it held before the model was built."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            self._held, self._peak = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
            self._forget_peak = torch.cuda.reset_peak_memory_stats
        else:
            preloaded = ctypes.CDLL(None)  # what is preloaded is in the program itself
            self._held, self._peak = preloaded.held_bytes, preloaded.peak_bytes
            self._forget_peak = preloaded.forget_peak
            self._held.restype = self._peak.restype = ctypes.c_long
        self._before = 0
        self._engine: Engine | None = None
        self.counts: dict[str, int] = {}

    def start(self, engine: Engine) -> None:
        """The model is about to be built."""
        self._engine, self._before = engine, self._held()

    def new_step(self, _: Engine) -> None:
        """A step begins: of the peaks, that of the last step counts, which has the optimizer's moments."""
        self._forget_peak()

    def between_micro_batches(self, engine: DeepSpeedEngine) -> None:
        """No activations are there; the last time in a step, all gradients are."""
        logits = [output for output in getattr(engine, "pipe_buffers", {}).get("outputs", ()) if output is not None]
        self.counts["state_bytes"] = self._held() - self._before - _bytes(self._buckets() + logits)

    def forward_begins(self, _: GPT) -> None:
        """DeepSpeed has dropped what it kept of the last gradients, or has gathered weights already."""
        held = self._held() - self._before - _bytes(self._buckets())
        self.counts["state_bytes"] = min(self.counts["state_bytes"], held)

    def end(self) -> None:
        """The run is over."""
        self.counts["peak_bytes"] = self._peak() - self._before

    def _buckets(self) -> list[torch.Tensor]:
        """ZeRO's buffers for the reduction of gradients that are there now."""
        tensors = []
        for bucket in getattr(self._engine.state.optimizer, "ipg_buckets", {}).values():
            tensors += bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer]
        return tensors


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def preceded(look: Callable, method: Callable) -> Callable:
    """The method, with a look at its object before each call."""

    @wraps(method)
    def wrapper(self, *arguments, **named):
        look(self)
        return method(self, *arguments, **named)

    return wrapper


def main() -> None:
    """Train, and write down what was held."""
    counter = Counter()
    Engine.__init__ = preceded(counter.start, Engine.__init__)
    Engine.train_step = preceded(counter.new_step, Engine.train_step)
    DeepSpeedEngine.forward = preceded(counter.between_micro_batches, DeepSpeedEngine.forward)
    GPT.forward = preceded(counter.forward_begins, GPT.forward)
    PipelineEngine.allreduce_gradients = preceded(counter.between_micro_batches, PipelineEngine.allreduce_gradients)
    pretrain(config_from_argv(sys.argv))
    counter.end()
    path = Path(os.environ["MEMORY_FOLDER"]) / f"rank{os.environ['RANK']}.json"
    path.write_text(json.dumps(counter.counts))


if __name__ == "__main__":
    main()
