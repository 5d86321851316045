"""From the fused projection to queries, keys and values by head, turned by their rotary angles, and back for the gradients.

The rows of the projection are interleaved by head of keys and values: [queries of its group, key, value; next head ...].
With as many key heads as query heads that is gpt-neox's [query, key, value] of each head. Tensor ranks hold whole groups.
"""

from __future__ import annotations

import torch
from torch import Tensor


class _SplitHeads(torch.autograd.Function):
    """Unpack and rotate in one pass, and pack the gradients, rotated back, in one pass too.

    Contiguous outputs make up for their copy in the attention kernels, most of all in the backward pass.
    """

    @staticmethod
    def forward(ctx, packed: Tensor, cos: Tensor | None, sin: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        seq, rows, groups, parts, dim = packed.shape
        queries = packed.new_empty(rows, groups, parts - 2, seq, dim)
        keys, values = packed.new_empty(2, rows, groups, 1, seq, dim)
        source = _by_part(packed)
        _turn(source[:, :, :-2], cos, sin, out=queries)
        _turn(source[:, :, -2:-1], cos, sin, out=keys)
        values.copy_(source[:, :, -1:])
        return queries.flatten(1, 2), keys.flatten(1, 2), values.flatten(1, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        back = None if sin is None else -sin
        rows, groups, seq, dim = keys.shape
        parts = queries.shape[1] // groups + 2
        packed = queries.new_empty(seq, rows, groups, parts, dim)
        target = _by_part(packed)
        _turn(queries.unflatten(1, (groups, -1)), cos, back, out=target[:, :, :-2])
        _turn(keys.unsqueeze(2), cos, back, out=target[:, :, -2:-1])
        target[:, :, -1] = values
        return packed, None, None


def _by_part(packed: Tensor) -> Tensor:
    """A view of (seq, batch, groups, parts, head_dim) as (batch, groups, parts, seq, head_dim)."""
    return packed.permute(1, 2, 3, 0, 4)


def _turn(source: Tensor, cos: Tensor | None, sin: Tensor | None, out: Tensor) -> None:
    """Rotate the first dimensions in fp32, copy the others; without angles copy all."""
    if cos is None:
        out.copy_(source)
        return
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
    """Queries (batch, heads, seq, head_dim), keys and values (batch, groups, seq, head_dim); rotated where angles are given.

    packed: (seq, batch, groups, heads / groups + 2, head_dim). cos and sin: (batch or 1, 1, 1, seq, dims / 2), fp32; the
    first `dims` dimensions of each query and key turn.
    """
    if torch.compiler.is_compiling():
        queries, keys, values = _by_part(packed).split((packed.shape[3] - 2, 1, 1), dim=2)
        return _turned(queries, cos, sin).flatten(1, 2), _turned(keys, cos, sin).flatten(1, 2), values.flatten(1, 2)
    return _SplitHeads.apply(packed, cos, sin)


def _turned(source: Tensor, cos: Tensor | None, sin: Tensor | None) -> Tensor:
    """The plain formula, of which the compiler makes one pass; it does not know the calls that write into a part."""
    if cos is None:
        return source
    half = cos.shape[-1]
    x, y = source[..., :half].float(), source[..., half : 2 * half].float()
    turned = torch.cat((x * cos - y * sin, y * cos + x * sin), dim=-1).to(source.dtype)
    return torch.cat((turned, source[..., 2 * half :]), dim=-1)
