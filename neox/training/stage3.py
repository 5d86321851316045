"""ZeRO 3 from the first layer on, and without torch's compiler.

A model that is built whole DeepSpeed would share out too, but after every process has held all of it: on its host in fp32, then on its
GPU. 70B would take 280 GB and 140 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import deepspeed
import torch
from deepspeed import comm, zero
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero import partitioned_param_coordinator as coordinator
from torch import nn

from neox.parallel.mpu import MpuAdapter
from neox.parallel.topology import Topology


def sharing_out(*, settings: dict[str, Any], dtype: torch.dtype, topology: Topology) -> Callable[[nn.Module], None]:
    """What leaves of a layer's weights the part of this process. Every replica calls it with its layers in order.

    settings: of DeepSpeed. dtype: what the model computes with.
    """
    backend = get_accelerator().communication_backend_name()
    comm.init_distributed(backend, dist_init_required=False)  # as deepspeed.initialize does, which comes later
    init = zero.Init(nn.Module(), topology.data_group, config_dict_or_path=settings, mpu=MpuAdapter(topology))

    def share_out(layer: nn.Module) -> None:
        init._convert_to_zero_parameters(layer.to(dtype).parameters())

    return share_out


def gathering(model: nn.Module, *, settings: dict[str, Any], topology: Topology) -> None:
    """Have a model whose layers are shared out gather the weights of each where it computes, and let them go again. It is not trained.

    Every replica calls this, and runs its forward passes together with the others.
    """
    with without_compiler():
        deepspeed.initialize(model=model, config=settings, mpu=MpuAdapter(topology), dist_init_required=False)


@contextmanager
def without_compiler() -> Iterator[None]:
    """Within, DeepSpeed makes an engine of ZeRO 3 that does not import torch's compiler, by which no such run here is compiled.

    It would, to tell it to leave alone what gathers the weights: 2 CPU-seconds in every process before its first step. The mark is the
    one by which torch knows that it has told it already.
    """
    kept = coordinator.PartitionedParameterCoordinator
    for function in (coordinator.update_recompute_parameters, *vars(kept).values()):
        if hasattr(function, "__wrapped__"):
            setattr(function.__wrapped__, "__dynamo_disable", function.__wrapped__)
    disable = torch.compiler.disable
    torch.compiler.disable = lambda function: function
    try:
        yield
    finally:
        torch.compiler.disable = disable
