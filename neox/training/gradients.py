"""How large the gradients are, and by how much to shrink them. Knows nothing about optimizers or DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed, nn

from neox.model.moe import is_shared_out
from neox.parallel.topology import Topology


def global_norm(gradients: Iterable[tuple[nn.Parameter, Tensor]], topology: Topology) -> Tensor:
    """2-norm of the whole model's gradients, an fp32 scalar that is the same on every rank of the tensor group.

    gradients: this rank's parameters with their fp32 gradients, averaged over the replicas. Every rank calls this.
    """
    everywhere, experts = [], []
    for parameter, gradient in gradients:
        (experts if is_shared_out(parameter) else everywhere).append((parameter, gradient))
    squares = _squares(everywhere, topology)
    if topology.expert_size > 1:
        # each expert is held by one rank of the expert-parallel group
        of_experts = _squares(experts, topology)
        distributed.all_reduce(of_experts, group=topology.expert_group)
        squares += of_experts
    return squares.sqrt()


def _squares(gradients: list[tuple[nn.Parameter, Tensor]], topology: Topology) -> Tensor:
    """Sum of the squares of gradients over the tensor group: shards add up; what every rank of it holds counts once."""
    split, whole = [], []
    for parameter, gradient in gradients:
        (split if getattr(parameter, "tensor_model_parallel", False) else whole).append(gradient)
    squares = torch.nn.utils.get_total_norm(split).square().to(topology.device, non_blocking=True)
    if topology.tensor_size > 1:
        distributed.all_reduce(squares, group=topology.tensor_group)
    return squares + torch.nn.utils.get_total_norm(whole).square().to(topology.device, non_blocking=True)


def divisor(norm: Tensor, clip: float) -> Tensor:
    """What to divide gradients of that norm by, so that it is at most `clip`; 1 where it already is, or where clip is 0.

    For `grad_scale` of torch's fused optimizers, which divide while they update: clipping takes no pass of its own.
    """
    return ((norm + 1e-6) / clip).clamp(min=1.0) if clip > 0 else torch.ones_like(norm)
