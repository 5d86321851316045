"""train.py with its memory counted. Started by `tools/bench.py memory` through deepy.py, which knows it by its name.

Needs counter.c preloaded. Writes rank<N>.json into the folder that MEMORY_FOLDER names.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from deepspeed.runtime.pipe.engine import PipelineEngine

from neox.config.handover import config_from_argv
from neox.model.gpt import GPT
from neox.training.engine import Engine
from neox.training.pretrain import pretrain


class Counter:
    """Bytes held by this process beyond those that it held before the model was built."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)  # what is preloaded is in the program itself
        for name in ("held_bytes", "peak_bytes"):
            getattr(self._library, name).restype = ctypes.c_long
        self._before = 0
        self._engine: Engine | None = None
        self.counts: dict[str, int] = {}

    def start(self, engine: Engine) -> None:
        """The model is about to be built."""
        self._engine, self._before = engine, self._library.held_bytes()

    def new_step(self, _: Engine) -> None:
        """A step begins: of the peaks, that of the last step counts, which has the optimizer's moments."""
        self._library.forget_peak()

    def between_micro_batches(self, _: object) -> None:
        """No activations are there; the last time in a step, all gradients are."""
        lent = self._bucket_bytes() + self._gathered_bytes()
        self.counts["state_bytes"] = self._library.held_bytes() - self._before - lent

    def end(self) -> None:
        """The run is over."""
        self.counts["peak_bytes"] = self._library.peak_bytes() - self._before

    def _bucket_bytes(self) -> int:
        """ZeRO's buffers for the reduction of gradients that are there now."""
        optimizer = self._engine.state.optimizer
        tensors = []
        for bucket in getattr(optimizer, "ipg_buckets", {}).values():
            tensors += bucket.buffer if isinstance(bucket.buffer, list) else [bucket.buffer]
        return sum(tensor.untyped_storage().nbytes() for tensor in tensors)

    def _gathered_bytes(self) -> int:
        """Weights that ZeRO 3 has gathered for the forward pass that begins."""
        weights = (weight for weight in self._engine.state.names if hasattr(weight, "ds_id"))
        return sum(weight.numel() * weight.element_size() for weight in weights)


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
    GPT.forward = preceded(counter.between_micro_batches, GPT.forward)
    PipelineEngine.allreduce_gradients = preceded(counter.between_micro_batches, PipelineEngine.allreduce_gradients)
    pretrain(config_from_argv(sys.argv))
    counter.end()
    path = Path(os.environ["MEMORY_FOLDER"]) / f"rank{os.environ['RANK']}.json"
    path.write_text(json.dumps(counter.counts))


if __name__ == "__main__":
    main()
