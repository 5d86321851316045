"""Load weights into a plain model, without optimizer or engine, from a checkpoint of any layout."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import newest
from neox.checkpoint.tensors import WEIGHT, StateReader, check_names, check_shape
from neox.parallel.topology import Topology


def load_weights(model: nn.Module, folder: Path, topology: Topology) -> tuple[Path, list[str]]:
    """Load the newest good checkpoint of a `save` folder into a model of one process.

    Returns the checkpoint's folder and warnings about newer ones that were passed over.
    Raises CheckpointError where there is none, or it does not fit the model.
    """
    assert topology.world_size == 1, "a model of several processes is restored through its training state"
    checkpoint, warnings = newest(folder, topology)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: no checkpoint there; train first, or set load to a folder that has one")
    reader = StateReader(checkpoint)
    parameters = dict(model.named_parameters())
    check_names(set(parameters), reader, whole_model=True)
    with torch.no_grad():
        for name, parameter in parameters.items():
            check_shape(name, tuple(parameter.shape), reader)
            parameter.copy_(reader.shard(name, WEIGHT, tensor_rank=0, tensor_size=1))
    return checkpoint, warnings
