"""What a rank holds of the training state: for each weight, a flat range of its shard, in fp32 where it is trained, with its
moments.

DeepSpeed keeps master weights and moments in a different place for every ZeRO stage and precision. This file is the only
one that knows where; it gives views, so the same list serves to save and to restore.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from deepspeed.runtime.base_optimizer import ZeROOptimizer
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from torch import nn

from neox.checkpoint.tensors import WEIGHT


@dataclass(frozen=True)
class Fragment:
    """A flat range of one parameter's shard on this rank."""

    name: str  # global name of the parameter, the same in every layout
    parameter: nn.Parameter
    start: int  # first element within the flattened shard
    tensors: dict[str, torch.Tensor]  # "weight" and the optimizer's moments, each a flat view of the same length


def base_optimizer(optimizer) -> torch.optim.Optimizer:
    """The torch optimizer inside DeepSpeed's wrapper, or the optimizer itself where there is no wrapper."""
    return optimizer if isinstance(optimizer, torch.optim.Optimizer) else optimizer.optimizer


def optimized_tensors(optimizer) -> list[torch.Tensor]:
    """The tensors that the torch optimizer updates: parameters, or DeepSpeed's flat fp32 ranges of them."""
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):  # lends them to the torch optimizer during a step only
        return list(optimizer.fp32_partitioned_groups_flat)
    return [tensor for group in base_optimizer(optimizer).param_groups for tensor in group["params"]]


def create_moments(optimizer, keys: list[str]) -> None:
    """Give the optimizer zero moments before its first step, so that there is something to restore into."""
    states = base_optimizer(optimizer).state
    for tensor in optimized_tensors(optimizer):
        for key in keys:
            states[tensor].setdefault(key, torch.zeros_like(tensor, memory_format=torch.preserve_format))


def optimizer_steps(optimizer) -> int:
    """Updates that the optimizer has made; Adam corrects its bias with this number."""
    states = base_optimizer(optimizer).state.values()
    return max((int(state["step"]) for state in states if "step" in state), default=0)


def set_optimizer_steps(optimizer, steps: int) -> None:
    """Restore the number of updates in every state that has moments."""
    base = base_optimizer(optimizer)
    if isinstance(base, torch.optim.AdamW):
        for tensor in optimized_tensors(optimizer):
            # the fused kernels want it beside the tensor
            base.state[tensor]["step"] = torch.tensor(float(steps), dtype=torch.float32, device=tensor.device)


def fragments(names: dict[nn.Parameter, str], optimizer, keys: list[str]) -> Iterator[Fragment]:
    """What this rank holds of each named parameter: its master weight and the moments `keys`, as views.

    Of a frozen parameter it holds all, without moments, and in the type that the model computes with.
    """
    for parameter, name in names.items():
        if not parameter.requires_grad:
            yield Fragment(name, parameter, 0, {WEIGHT: parameter.detach().view(-1)})
    names = {parameter: name for parameter, name in names.items() if parameter.requires_grad}
    if isinstance(optimizer, DeepSpeedZeroOptimizer_Stage3):
        yield from _stage3(names, optimizer, keys)
    elif isinstance(optimizer, ZeROOptimizer):  # stages 1 and 2, and bf16 with fp32 gradients
        yield from _partitioned(names, optimizer, keys)
    else:
        yield from _whole(names, optimizer, keys)


def moment_keys(optimizer) -> list[str]:
    """Names of the moments that the optimizer holds by now."""
    for parameter, state in base_optimizer(optimizer).state.items():
        return sorted(key for key, value in state.items() if torch.is_tensor(value) and value.shape == parameter.shape)
    return []


def _whole(names, optimizer, keys: list[str]) -> Iterator[Fragment]:
    """Stage 0: every replica holds everything. In 16 bits, the masters are in DeepSpeed's unfused wrapper."""
    masters = {}
    if isinstance(optimizer, FP16_UnfusedOptimizer):
        for weights, group in zip(optimizer.fp16_groups, optimizer.fp32_groups):
            masters.update(zip(weights, group))
    state = base_optimizer(optimizer).state
    for parameter, name in names.items():
        master = masters.get(parameter, parameter)
        moments = {key: state[master][key].view(-1) for key in keys}
        yield Fragment(name, parameter, 0, {WEIGHT: master.detach().view(-1), **moments})


def _partitioned(names, optimizer, keys: list[str]) -> Iterator[Fragment]:
    """Stages 1 and 2: a rank holds a range of the flattened parameters of each group, which cuts some of them."""
    base = base_optimizer(optimizer)
    for parameter, name in names.items():
        mapping = parameter._hp_mapping
        if mapping is None:
            continue
        (flat,) = base.param_groups[mapping.param_group_index]["params"]
        place = mapping.hp_fragment_address
        moments = {key: base.state[flat][key].narrow(0, place.start, place.numel) for key in keys}
        start = mapping.lp_fragment_address.start
        yield Fragment(name, parameter, start, {WEIGHT: mapping.get_hp_fragment(), **moments})


def _stage3(names, optimizer, keys: list[str]) -> Iterator[Fragment]:
    """Stage 3: a rank holds an equal part of every parameter; the last part may be padded."""
    for parameter, name in names.items():
        views = {
            key or WEIGHT: optimizer._get_fp32_opt_state_partition(parameter, False, key)[0] for key in [None, *keys]
        }
        start = views[WEIGHT].numel() * optimizer._get_param_partition_rank(parameter)
        true_length = min(views[WEIGHT].numel(), parameter.ds_numel - start)
        if true_length > 0:
            yield Fragment(name, parameter, start, {key: view[:true_length] for key, view in views.items()})
