"""Attention written out in float64, to hold against what a kernel computes."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS, HEADS, SEQ, DIM = 2, 4, 200, 16  # more than a block of FlexAttention, and not whole blocks
SCALE = 0.3


def tensors(groups: int, dtype: torch.dtype, device: str = "cpu") -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values, and a gradient of the result."""
    generator = torch.Generator().manual_seed(1)
    shapes = [(ROWS, heads, SEQ, DIM) for heads in (HEADS, groups, groups, HEADS)]
    *inputs, towards = (torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes)
    return [part.requires_grad_() for part in inputs], towards


def plain(inputs: list[Tensor], seen: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """softmax(SCALE * queries keys^T + bias) values in float64; seen: (rows or 1, 1, queries, keys) bool."""
    queries, keys, values = (part.double() for part in inputs)
    keys, values = (part.repeat_interleave(HEADS // part.shape[1], 1) for part in (keys, values))
    scores = (SCALE * queries @ keys.mT + bias).masked_fill(~seen, -torch.inf)
    return scores.softmax(-1) @ values


def assert_equal(
    found: Tensor, inputs: list[Tensor], towards: Tensor, seen: Tensor, bias: Tensor | float = 0.0
) -> None:
    """The result and its gradients are those of the plain softmax, as exactly as the type allows."""
    expected = plain(inputs, seen, bias)
    ours = (found, *torch.autograd.grad(found, inputs, towards))
    theirs = (expected, *torch.autograd.grad(expected, inputs, towards.double()))
    for tensor, other in zip(ours, theirs):
        error = (tensor.double() - other.double()).norm() / (1 + other.double().norm())
        assert error < (1e-4 if tensor.dtype == torch.float32 else 1e-2)


def document_numbers(starts: list[int], device: str = "cpu") -> Tensor:
    """Numbers of two documents in each row, (rows, SEQ); the second begins at its start."""
    return (torch.arange(SEQ) >= torch.tensor(starts)[:, None]).long().to(device)
