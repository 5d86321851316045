"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685): beside a frozen weight W trains a product B A of small rank.

A layer then computes W x + alpha / rank * B A x. B begins at zero, so that the first step starts from what W alone computes.
Under tensor parallelism each adapter is split as the weight that it stands beside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.nn.functional as F
from torch import Tensor, nn

from neox.config.sections import ModelConfig
from neox.model.block import Block, hidden_dropout
from neox.model.linear import ColumnLinear, RowLinear, column_product, split_parameter, whole_parameter
from neox.parallel.seeding import tensor_parallel_rng

ADAPTER = "adapter"  # its name in the layer that it belongs to


class Adapter(nn.Module):
    """What the adapters of both kinds of linear layers share.

    down: A, (rank, inputs). up: B, in the shape of the layer's weight with the rank in place of its inputs.
    """

    down: nn.Parameter
    up: nn.Parameter

    def __init__(self, layer: ColumnLinear | RowLinear, model: ModelConfig):
        super().__init__()
        self.sharding = layer.sharding
        self.scale = lora_scale(model)
        self.dropout = model.lora_dropout


class ColumnAdapter(Adapter):
    """Beside a layer whose outputs are split: every rank holds all of A, and its own outputs of B."""

    def __init__(self, layer: ColumnLinear, model: ModelConfig):
        super().__init__(layer, model)
        *outputs, inputs = layer.weight.shape
        self.down = whole_parameter(model.lora_rank, inputs)
        self.up = split_parameter(*outputs, model.lora_rank, dim=layer.weight.partition_dim)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden: as the layer takes it, a part of the sequence where that is split."""
        hidden = hidden_dropout(hidden, self.dropout, self.training, self.sharding)
        lowered = F.linear(hidden, self.sharding.copied(self.down))
        up = self.up.flatten(0, -2)  # a gated MLP stacks two projections
        return self.scale * column_product(lowered, up, None, self.sharding)


class RowAdapter(Adapter):
    """Beside a layer whose inputs are split: every rank holds its own inputs of A, and all of B."""

    def __init__(self, layer: RowLinear, model: ModelConfig):
        super().__init__(layer, model)
        outputs, inputs = layer.weight.shape
        self.down = split_parameter(model.lora_rank, inputs, dim=layer.weight.partition_dim)
        self.up = whole_parameter(outputs, model.lora_rank)

    def forward(self, inner: Tensor) -> Tensor:
        if self.training and self.dropout:
            with tensor_parallel_rng(self.sharding.topology):
                inner = F.dropout(inner, self.dropout)
        lowered = self.sharding.reduced(F.linear(inner, self.down))
        return self.scale * F.linear(lowered, self.sharding.copied(self.up))


def lora_scale(model: ModelConfig) -> float:
    """The factor of B A."""
    assert model.lora_rank is not None
    return model.lora_alpha / model.lora_rank


def add_adapters(part: nn.Module, model: ModelConfig) -> None:
    """Freeze all weights of a part of a model, and put adapters, whose weights are unset, beside the layers of a block that
    `lora_targets` names."""
    part.requires_grad_(False)
    if not isinstance(part, Block):
        return
    for name, layer in list(part.named_modules()):
        if name.rpartition(".")[2] in model.lora_targets:
            kind = ColumnAdapter if isinstance(layer, ColumnLinear) else RowAdapter
            layer.adapter = kind(layer, model)


@contextmanager
def without_adapters(gpt: nn.Module) -> Iterator[None]:
    """Within, a model computes what its frozen weights alone do, and without dropout."""
    adapted = [(layer, layer.adapter) for layer in gpt.modules() if getattr(layer, ADAPTER, None) is not None]
    training = gpt.training
    gpt.eval()
    for layer, _ in adapted:
        layer.adapter = None
    try:
        yield
    finally:
        for layer, adapter in adapted:
            layer.adapter = adapter
        gpt.train(training)


def is_adapter(name: str) -> bool:
    """Whether a weight of that name is an adapter's."""
    return f".{ADAPTER}." in name


def adapter_names(name: str) -> tuple[str, str]:
    """The names that A and B beside a weight would have."""
    place = f"{name.removesuffix('.weight')}.{ADAPTER}"
    return f"{place}.down", f"{place}.up"


def merged(weight: Tensor, down: Tensor, up: Tensor, model: ModelConfig) -> Tensor:
    """The plain weight that computes what a weight and its adapter do together; all of them whole."""
    return weight + lora_scale(model) * (up @ down)
