"""Load weights into a model that is not trained, without an optimizer, from a checkpoint of any layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.tensors import WEIGHT, StateReader, check_names, check_shape, full_shape
from neox.parallel.agreement import together
from neox.parallel.topology import Topology


def load_weights(model: nn.Module, checkpoint: Path, topology: Topology) -> None:
    """Load one verified checkpoint folder into a model that is whole, split by tensor parallelism, or shared out as at ZeRO 3.

    Every rank calls this. Raises CheckpointError on all of them where it does not fit the model.
    """
    assert topology.pipe_size == topology.expert_size == 1, "parts of a model are restored through its training state"
    together(lambda: _read(model, StateReader(checkpoint), topology), CheckpointError)


@torch.no_grad()
def _read(model: nn.Module, reader: StateReader, topology: Topology) -> None:
    parameters = dict(model.named_parameters())
    check_names(set(parameters), reader, whole_model=True)
    for name, parameter in parameters.items():
        size = topology.tensor_size if parameter.tensor_model_parallel else 1
        check_shape(name, full_shape(parameter, size), reader)
        if hasattr(parameter, "ds_tensor"):
            part = parameter.ds_tensor.data
            start = part.numel() * topology.data_rank
            part = part[: max(0, parameter.ds_numel - start)]  # the last ones may be padded
            reader.read_range(part, name, WEIGHT, topology.tensor_rank, size, start)
        else:
            parameter.copy_(reader.shard(name, WEIGHT, topology.tensor_rank, size))
