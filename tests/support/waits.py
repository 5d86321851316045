"""Where a training step asks a tensor for its value, which on a GPU makes the host wait for the device."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from neox.config.read import config_from_values
from neox.parallel.topology import Topology
from neox.training.engine import Engine
from support.engines import LEARNING_RATE, MODEL, ROWS, VOCAB, samples

aten = torch.ops.aten
# a value as a number (float(), bool(), int(), item()), or a result whose shape depends on values
WAITING = {aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten._unique2, aten.equal}


class _Watch(TorchDispatchMode):
    def __init__(self, places: list[str]):
        super().__init__()
        self._places = places

    def __torch_dispatch__(self, function, _types, arguments=(), keywords=None) -> Any:
        if function.overloadpacket in WAITING:
            self._places.append(_place())
        return function(*arguments, **(keywords or {}))


@contextmanager
def waits() -> Iterator[list[str]]:
    """The places, `file.py:function`, that ask for values inside; of torch's own files the caller of torch."""
    places: list[str] = []

    def noted(method):
        def asks(tensor: Tensor, *arguments, **keywords):
            places.append(_place())
            return method(tensor, *arguments, **keywords)

        return asks

    # on a CPU these read the memory at once, and no operator is called
    methods = {name: noted(getattr(Tensor, name)) for name in ("tolist", "cpu", "numpy")}
    with patch.multiple(Tensor, **methods), _Watch(places):
        yield places


def _place() -> str:
    outside = [
        frame
        for frame in traceback.extract_stack()
        if f"{Path('/torch')}/" not in frame.filename and Path(frame.filename) != Path(__file__)
    ]
    return f"{Path(outside[-1].filename).name}:{outside[-1].name}"


def waits_of_steps(topology: Topology, *, rows: list[dict], steps: int) -> list[list[str]]:
    """For each row of configuration keys, where the engine's steps wait, without the first, which makes tables and buffers."""
    found = []
    for keys in rows:
        values = {
            **MODEL,
            "train_batch_size": 2 * ROWS * topology.data_size,
            "train_micro_batch_size_per_gpu": ROWS,
            "train_iters": steps,
            "gradient_clipping": 0.5,
            "num_gpus": topology.world_size,
            "model_parallel_size": topology.tensor_size,
            "pipe_parallel_size": topology.pipe_size,
            **keys,
        }
        engine = Engine(config_from_values(values), topology, VOCAB)
        batches = samples()
        engine.train_step(batches, LEARNING_RATE)
        with waits() as places:
            for _ in range(steps):
                engine.train_step(batches, LEARNING_RATE)
        found.append(sorted(set(places)))
    return found
