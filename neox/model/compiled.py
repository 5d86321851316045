"""torch.compile of the blocks: one graph that all blocks of a kind share."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from neox.model.attention import Attention
from neox.model.block import Block
from neox.model.kernels import kernel_for
from neox.model.masks import sequence_mask
from neox.model.moe import MixtureOfExperts


def compile_blocks(layers: Iterable[nn.Module]) -> None:
    """Let the blocks among the layers be compiled when they first run.

    Blocks and not the model: DeepSpeed's engine and pipeline, recomputation and the ends of the model stay as they are. So
    do blocks with a mixture of experts, whose shapes change from step to step.
    """
    # what depends on shapes alone is made once and read by all blocks, not computed again in each
    for constant in (Attention.tables, kernel_for.__wrapped__, sequence_mask.__wrapped__):
        torch.compiler.assume_constant_result(constant)
    for layer in layers:
        if isinstance(layer, Block) and not isinstance(layer.mlp, MixtureOfExperts):
            layer.compile(dynamic=False)
