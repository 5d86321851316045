"""Expert parallelism as DeepSpeed's engine wants to be told of it."""

from __future__ import annotations

from deepspeed.moe.layer import MoE
from deepspeed.utils import groups
from torch import nn

from neox.model.moe import expert_group_name
from neox.parallel.topology import Topology


def announce_experts(module: nn.Module, topology: Topology) -> None:
    """Make DeepSpeed average the gradients of experts, and partition their state, over the processes that hold them.

    To be called before `deepspeed.initialize`.
    """
    name = expert_group_name(topology)
    groups._EXPERT_PARALLEL_GROUP[name] = topology.expert_group
    groups._EXPERT_DATA_PARALLEL_GROUP[name] = topology.expert_data_group
    module.add_module("announced_experts", _Announcement())


class _Announcement(MoE):
    """DeepSpeed looks for experts only where a model has its own layer: this one has its type, and nothing else."""

    def __init__(self):
        nn.Module.__init__(self)  # not DeepSpeed's, which would build experts
        self.num_experts = 0

    def set_deepspeed_parallelism(self, use_data_before_expert_parallel_: bool = False) -> None:
        """The groups are there."""
