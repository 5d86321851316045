"""The optimizer of the parameters that a rank holds."""

from __future__ import annotations

import inspect
from types import MethodType

import torch
from torch import nn, optim

from neox.config.sections import OptimizerConfig
from neox.model.moe import is_shared_out


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict]:
    """Matrices decay; norms and biases do not. A gated MLP's bias has two dimensions, so names decide too. Frozen parameters
    are in no group.

    Experts that not every replica holds have groups of their own, which DeepSpeed finds by `moe` and the name.
    """
    groups: dict[tuple[bool, str | None], list[nn.Parameter]] = {(True, None): [], (False, None): []}
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.dim() >= 2 and not name.endswith("bias")
        holders = parameter.group_name if is_shared_out(parameter) else None
        groups.setdefault((is_matrix, holders), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": weight_decay if is_matrix else 0.0}
        | ({"moe": True, "name": holders} if holders else {})
        for (is_matrix, holders), parameters in groups.items()
        if parameters
    ]


def build_optimizer(config: OptimizerConfig, module: nn.Module) -> optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) or plain SGD, both in torch's fused kernels."""
    groups = parameter_groups(module, config.weight_decay)
    params = config.optimizer.params
    if config.optimizer.type == "SGD":
        return _uncompiled(optim.SGD, groups, lr=params.lr, momentum=params.momentum, fused=True)
    return _uncompiled(optim.AdamW, groups, lr=params.lr, betas=params.betas, eps=params.eps, fused=True)


def _uncompiled(kind: type[optim.Optimizer], groups: list[dict], **settings) -> optim.Optimizer:
    """An optimizer that does not import torch's compiler, which no optimizer here passes through.

    torch wraps these methods to tell its compiler to leave them alone, and imports it for that: a third of the time that
    a process needs to get to its first step. The mark is the one by which torch knows that it has told it already.
    """
    base = optim.Optimizer
    for method in (base.add_param_group, base.zero_grad, base.state_dict, base.load_state_dict):
        setattr(inspect.unwrap(method), "__dynamo_disable", inspect.unwrap(method))
    optimizer = kind(groups, **settings)
    optimizer.step = torch.no_grad()(MethodType(inspect.unwrap(kind.step), optimizer))
    return optimizer
