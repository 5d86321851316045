"""Rotary positions as GPT-NeoX and Llama have them: pairs of dimensions half a rotation width apart turn together."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=8)
def rotary_tables(length: int, dims: int, base: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin of the angles, (length, dims / 2) in fp32.

    Made once for all layers, and not a buffer of a module: a cast of the model to bf16 would round the angles.
    """
    frequencies = base ** -(torch.arange(0, dims, 2, device=device, dtype=torch.float32) / dims)
    angles = torch.arange(length, device=device, dtype=torch.float32).outer(frequencies)
    return angles.cos(), angles.sin()


class _SplitHeads(torch.autograd.Function):
    """Unpack and rotate in one pass, and pack the gradients, rotated back, in one pass too.

    Contiguous outputs make up for their copy in the attention kernels, most of all in the backward pass.
    """

    @staticmethod
    def forward(ctx, packed: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        source = _by_head(packed)
        split = torch.empty_like(source, memory_format=torch.contiguous_format)
        if cos is None:
            split.copy_(source)
        else:
            _turn(source[:2], cos, sin, out=split[:2])
            split[2] = source[2]
        return split[0], split[1], split[2]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        rows, heads, seq, dim = queries.shape
        packed = queries.new_empty(seq, rows, heads, 3, dim)
        parts = _by_head(packed)
        if cos is None:
            parts[0], parts[1] = queries, keys
        else:
            _turn(queries, cos, -sin, out=parts[0])
            _turn(keys, cos, -sin, out=parts[1])
        parts[2] = values
        return packed, None, None


def _by_head(packed: Tensor) -> Tensor:
    """A view of (seq, batch, heads, 3, head_dim) as (3, batch, heads, seq, head_dim)."""
    return packed.permute(3, 1, 2, 0, 4)


def _turn(source: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate the first `dims` dimensions in fp32, copy the others."""
    half = cos.shape[-1]
    x, y = source[..., :half].float(), source[..., half : 2 * half].float()
    turning = out[..., : 2 * half]
    turned = turning if out.dtype == torch.float32 else torch.empty_like(turning, dtype=torch.float32)
    torch.mul(x, cos, out=turned[..., :half]).addcmul_(y, sin, value=-1)
    torch.mul(y, cos, out=turned[..., half:]).addcmul_(x, sin)
    if turned is not turning:
        turning.copy_(turned)
    if 2 * half < out.shape[-1]:
        out[..., 2 * half :] = source[..., 2 * half :]


def split_heads(packed: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys, rotated where angles are given, and values: (batch, heads, seq, head_dim) each.

    packed: (seq, batch, heads, 3, head_dim). cos and sin: (batch or 1, 1, seq, dims / 2), fp32; the first `dims`
    dimensions of each head turn.
    """
    return _SplitHeads.apply(packed, cos, sin)
