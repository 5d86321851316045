"""The optimizer of the parameters that a rank holds."""

from __future__ import annotations

import importlib
import inspect
from types import MethodType

import torch
from deepspeed.runtime import compiler
from torch import nn, optim

from neox.config.sections import OptimizerConfig
from neox.model.block import block_matrices
from neox.model.moe import is_shared_out


def parameter_groups(module: nn.Module, weight_decay: float, width_multiplier: float = 1.0) -> list[dict]:
    """Matrices decay; norms and biases do not. A gated MLP's bias has two dimensions, so names decide too. Frozen parameters
    are in no group.

    With a width multiplier other than 1 (neox/config/mup.py) the matrices of the blocks have a group of their own, whose
    rate is `lr_factor` of the others', and which decays as fast as they do. Experts that not every replica holds have groups
    of their own, which DeepSpeed finds by `moe` and the name.
    """
    growing = set() if width_multiplier == 1 else block_matrices(module)
    groups: dict[tuple[bool, bool, str | None], list[nn.Parameter]] = {
        (True, False, None): [],
        (True, True, None): [],
        (False, False, None): [],
    }
    for name, parameter in module.named_parameters():
        if not parameter.requires_grad:
            continue
        # ZeRO 3 leaves an empty tensor behind
        is_matrix = len(getattr(parameter, "ds_shape", parameter.shape)) >= 2 and not name.endswith("bias")
        holders = parameter.group_name if is_shared_out(parameter) else None
        groups.setdefault((is_matrix, parameter in growing, holders), []).append(parameter)
    built = []
    for (is_matrix, grows, holders), parameters in groups.items():
        if not parameters:
            continue
        multiplier = width_multiplier if grows else 1.0
        decay = weight_decay * multiplier if is_matrix else 0.0
        group = {"params": parameters, "weight_decay": decay, "lr_factor": 1 / multiplier}
        built.append(group | ({"moe": True, "name": holders} if holders else {}))
    if growing and not groups[True, False, None]:
        # a pipeline stage of blocks alone: DeepSpeed adds up norms group by group, and waits for as many groups on every stage
        first, *rest = built[0]["params"]
        built = [{**built[0], "params": [first]}, {**built[0], "params": rest}, *built[1:]]
    return built


def build_optimizer(config: OptimizerConfig, module: nn.Module, width_multiplier: float = 1.0) -> optim.Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) or plain SGD, both in torch's fused kernels."""
    groups = parameter_groups(module, config.weight_decay, width_multiplier)
    params = config.optimizer.params
    if config.optimizer.type == "SGD":
        return _uncompiled(optim.SGD, groups, lr=params.lr, momentum=params.momentum, fused=True)
    return _uncompiled(optim.AdamW, groups, lr=params.lr, betas=params.betas, eps=params.eps, fused=True)


def set_learning_rate(optimizer: optim.Optimizer, learning_rate: float) -> None:
    """The rate of the next step, in each group by its factor; also of DeepSpeed's wrappers around an optimizer."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["lr_factor"]


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


def import_muon_uncompiled() -> None:
    """Import DeepSpeed's Muon, after which every one of its ZeRO optimizers asks, without compiling its kernels.

    No run here uses it, and to compile is to import torch's compiler: 3 CPU-seconds in every process before its first step.
    """
    compile_kernels = compiler.compile
    compiler.compile = lambda: lambda kernel: kernel
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_kernels
