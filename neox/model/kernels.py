"""The one place that chooses how attention is computed: torch's scaled_dot_product_attention and the kernels below it.

All of them compute the scores and the softmax in fp32, also for fp16 and bf16 inputs. Without a mask torch takes its
flash kernels; with one it takes those that read masks, which on CUDA know no groups and want a bias in the queries' type.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale * queries keys^T + mask) values, (batch, heads, seq, head_dim).

    queries: (batch, heads, seq, head_dim). keys and values: (batch, groups, keys, head_dim), each group shared by
    heads / groups consecutive heads. mask: bool, True where a key is seen, or a bias of the scores; causal: instead of a
    mask, each query sees itself and what is before it.
    """
    group_size = queries.shape[1] // keys.shape[1]
    if mask is not None and queries.is_cuda:
        mask = mask if mask.dtype == torch.bool else mask.to(queries.dtype)
        keys, values = keys.repeat_interleave(group_size, 1), values.repeat_interleave(group_size, 1)
        group_size = 1
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, dropout, is_causal=causal, scale=scale, enable_gqa=group_size > 1
    )
