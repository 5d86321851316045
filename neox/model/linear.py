"""Linear layers and the word embedding, split over the tensor-parallel group with megatron-core's collectives.

Parameters carry megatron-core's attributes: `tensor_model_parallel` (True where each rank holds a part) and
`partition_dim` (the dimension to concatenate the parts along). Weights are left unset here: neox/model/initializers.py
fills them. Knows nothing about attention or configuration.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from neox.parallel.megatron import (
    copy_to_tensor_model_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from neox.parallel.topology import Topology


@dataclass(frozen=True)
class Sharding:
    """How a layer is split: over which ranks, and whether what lies between its matrix products is split too.

    With `sequence` (sequence parallelism) hidden states outside the linear layers are (seq / tensor_size, batch,
    hidden), otherwise every rank holds (seq, batch, hidden).
    """

    topology: Topology
    sequence: bool = False

    def __post_init__(self):
        assert not self.sequence or self.size > 1, "sequence parallelism needs a tensor-parallel group"

    @property
    def size(self) -> int:
        """Ranks that share the layer."""
        return self.topology.tensor_size

    @property
    def rank(self) -> int:
        """This process's place among them."""
        return self.topology.tensor_rank

    def part(self, whole: int) -> int:
        """What one rank holds of a dimension."""
        assert whole % self.size == 0, f"{whole} does not divide by {self.size}"
        return whole // self.size

    def copied(self, parameter: Tensor | None) -> Tensor | None:
        """A parameter that all ranks hold, as used on hidden states: its gradient is summed over a split sequence."""
        if parameter is None or not self.sequence:
            return parameter
        return copy_to_tensor_model_parallel_region(parameter, group=self.topology.tensor_group)

    def shared(self, parameter: Tensor) -> Tensor:
        """A parameter that all ranks hold, as used on this rank's heads: its gradient is summed over the ranks."""
        if self.size == 1:
            return parameter
        return copy_to_tensor_model_parallel_region(parameter, group=self.topology.tensor_group)

    def reduced(self, partial: Tensor) -> Tensor:
        """Sum (seq, batch, hidden) over the ranks, and keep this rank's part of the sequence where it is split."""
        if self.size == 1:
            return partial
        if self.sequence:
            return reduce_scatter_to_sequence_parallel_region(partial, group=self.topology.tensor_group)
        return reduce_from_tensor_model_parallel_region(partial, group=self.topology.tensor_group)


def split_parameter(*shape: int, dim: int) -> nn.Parameter:
    """An unset parameter of which this is one rank's part along `dim`."""
    parameter = nn.Parameter(torch.empty(*shape))
    parameter.tensor_model_parallel, parameter.partition_dim = True, dim
    return parameter


def whole_parameter(*shape: int) -> nn.Parameter:
    """An unset parameter that every rank of the tensor-parallel group holds."""
    parameter = nn.Parameter(torch.empty(*shape))
    parameter.tensor_model_parallel, parameter.partition_dim = False, -1
    return parameter


class ColumnLinear(nn.Module):
    """Linear layer whose outputs are split: (seq, batch, inputs) -> (seq, batch, groups * outputs / tensor_size).

    `groups` stacks several projections of the same input, such as the gate and the value of a gated MLP: the weight is
    (groups, outputs, inputs) split along outputs. One matrix product serves all, each rank holds matching parts of
    every group, and the whole weight is the plain concatenation of the parts, whatever the layout was.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool, sharding: Sharding, groups: int = 1):
        super().__init__()
        self.sharding = sharding
        shape, dim = (sharding.part(outputs),), 0
        if groups > 1:
            shape, dim = (groups, *shape), 1
        self.weight = split_parameter(*shape, inputs, dim=dim)
        self.bias = split_parameter(*shape, dim=dim) if bias else None
        self.adapter: nn.Module | None = None  # what neox/model/lora.py adds

    def forward(self, hidden: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if weight.dim() == 3:
            weight, bias = weight.flatten(0, 1), None if bias is None else bias.flatten()
        product = column_product(hidden, weight, bias, self.sharding)
        return product if self.adapter is None else product + self.adapter(hidden)


def column_product(hidden: Tensor, weight: Tensor, bias: Tensor | None, sharding: Sharding) -> Tensor:
    """hidden @ weight^T + bias for a weight whose rows are split over the ranks; gathers a split sequence first."""
    if sharding.size == 1:
        return F.linear(hidden, weight, bias)
    return _ColumnProduct.apply(hidden, weight, bias, sharding)


class _ColumnProduct(torch.autograd.Function):
    """The product, with the collectives of its backward pass overlapped with the matrix products there.

    megatron-core's function does the same, but its module alone imports torch's compiler, and it adds the bias in a
    pass of its own. A split sequence is kept split for the backward pass, and gathered again.
    """

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, sharding: Sharding) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.sharding = sharding
        if sharding.sequence:
            hidden, gathering = _start_gather(hidden, sharding)
            gathering.wait()
        return F.linear(hidden, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        hidden, weight = ctx.saved_tensors
        sharding, group = ctx.sharding, ctx.sharding.topology.tensor_group
        if sharding.sequence:
            hidden, gathering = _start_gather(hidden, sharding)
        to_hidden = gradient @ weight
        if sharding.sequence:
            gathering.wait()
            partial = to_hidden
            to_hidden = partial.new_empty(sharding.part(len(partial)), *partial.shape[1:])
            reducing = dist.reduce_scatter_tensor(to_hidden, partial, group=group, async_op=True)
        else:
            reducing = dist.all_reduce(to_hidden, group=group, async_op=True)
        rows = gradient.flatten(0, 1)
        to_weight = rows.t() @ hidden.flatten(0, 1) if ctx.needs_input_grad[1] else None
        to_bias = rows.sum(0) if ctx.needs_input_grad[2] else None
        reducing.wait()
        return to_hidden, to_weight, to_bias, None


def _start_gather(hidden: Tensor, sharding: Sharding) -> tuple[Tensor, dist.Work]:
    """The whole sequence of which each rank holds a part, ready once the work has been waited for."""
    whole = hidden.new_empty(sharding.size * len(hidden), *hidden.shape[1:])
    group = sharding.topology.tensor_group
    return whole, dist.all_gather_into_tensor(whole, hidden.contiguous(), group=group, async_op=True)


class RowLinear(nn.Module):
    """Linear layer whose inputs are split: (seq, batch, inputs / tensor_size) -> hidden states summed over the ranks."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, sharding: Sharding):
        super().__init__()
        self.sharding = sharding
        self.weight = split_parameter(outputs, sharding.part(inputs), dim=1)
        self.bias = whole_parameter(outputs) if bias else None
        self.adapter: nn.Module | None = None  # what neox/model/lora.py adds

    def forward(self, inner: Tensor) -> Tensor:
        product = self._product(inner)
        return product if self.adapter is None else product + self.adapter(inner)

    def _product(self, inner: Tensor) -> Tensor:
        if self.sharding.size == 1:
            return F.linear(inner, self.weight, self.bias)
        hidden = self.sharding.reduced(F.linear(inner, self.weight))
        return hidden if self.bias is None else hidden + self.sharding.copied(self.bias)


class VocabEmbedding(nn.Module):
    """Word embedding with the vocabulary split over the ranks: (seq, batch) ids -> hidden states."""

    def __init__(self, vocab_size: int, hidden_size: int, *, sharding: Sharding):
        super().__init__()
        self.sharding = sharding
        self.weight = split_parameter(sharding.part(vocab_size), hidden_size, dim=0)

    def forward(self, tokens: Tensor) -> Tensor:
        if self.sharding.size == 1:
            return F.embedding(tokens, self.weight)
        local = tokens - self.sharding.rank * len(self.weight)
        elsewhere = (local < 0) | (local >= len(self.weight))
        vectors = F.embedding(local.masked_fill(elsewhere, 0), self.weight)
        return self.sharding.reduced(vectors.masked_fill(elsewhere.unsqueeze(-1), 0))
