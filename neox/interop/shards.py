"""How the weights of another library make up ours: merge their parts into one of our tensors, and split it again.

Every row of a family's table is one of these; `names` are theirs, without the prefix of the layer and without `.weight`
or `.bias`, which are treated alike. Both directions move numbers and never compute with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from neox.config.sections import ModelConfig
from neox.config.shapes import head_width, kv_heads


class Row(Protocol):
    """One of our tensors, and the parts that it has in the other library."""

    @property
    def names(self) -> tuple[str, ...]:
        """Their names of the parts."""

    def merge(self, parts: Sequence[Tensor], model: ModelConfig) -> Tensor:
        """Our tensor."""

    def split(self, whole: Tensor, model: ModelConfig) -> list[Tensor]:
        """Their parts."""


@dataclass(frozen=True)
class Same:
    """The same tensor under another name."""

    name: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def merge(self, parts: Sequence[Tensor], _model: ModelConfig) -> Tensor:
        return parts[0]

    def split(self, whole: Tensor, _model: ModelConfig) -> list[Tensor]:
        return [whole]


@dataclass(frozen=True)
class Transposed(Same):
    """A matrix of (inputs, outputs), as GPT-2's Conv1D has it, where ours is (outputs, inputs)."""

    def merge(self, parts: Sequence[Tensor], _model: ModelConfig) -> Tensor:
        return parts[0].t()

    def split(self, whole: Tensor, _model: ModelConfig) -> list[Tensor]:
        return [whole.t()]


@dataclass(frozen=True)
class Stacked:
    """Several projections of one input, which we stack: the gate and the value of a gated MLP."""

    names: tuple[str, ...]

    def merge(self, parts: Sequence[Tensor], _model: ModelConfig) -> Tensor:
        return torch.stack(list(parts))

    def split(self, whole: Tensor, _model: ModelConfig) -> list[Tensor]:
        return list(whole.unbind())


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values apart, where ours are interleaved by head of keys: [queries of its group, key, value; ...]."""

    names: tuple[str, str, str]

    def merge(self, parts: Sequence[Tensor], model: ModelConfig) -> Tensor:
        groups, dim = kv_heads(model), head_width(model)
        by_group = [part.reshape(groups, -1, dim, *part.shape[1:]) for part in parts]
        return torch.cat(by_group, dim=1).flatten(0, 2)

    def split(self, whole: Tensor, model: ModelConfig) -> list[Tensor]:
        groups, dim = kv_heads(model), head_width(model)
        size = model.num_attention_heads // groups
        by_group = whole.reshape(groups, size + 2, dim, *whole.shape[1:])
        return [part.flatten(0, 2) for part in by_group.split((size, 1, 1), dim=1)]


@dataclass(frozen=True)
class TransposedHeads(Same):
    """Queries, keys and values one after the other in one tensor (inputs, outputs), as in GPT-2."""

    def merge(self, parts: Sequence[Tensor], model: ModelConfig) -> Tensor:
        return Heads(("", "", "")).merge(parts[0].t().chunk(3), model)

    def split(self, whole: Tensor, model: ModelConfig) -> list[Tensor]:
        return [torch.cat(Heads(("", "", "")).split(whole, model)).t()]
