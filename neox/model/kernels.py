"""The one place that chooses how attention is computed, by the device, the type of numbers and what is seen.

    all before, or both ways    torch's scaled_dot_product_attention without a mask, which takes its flash kernels
    a window, on a GPU          flash-attn where it is installed, else FlexAttention
    documents, ALiBi, on a GPU  FlexAttention
    anything else               scaled_dot_product_attention with a mask of (queries, keys)

FlexAttention (Dong et al., 2024, arXiv:2412.05496) skips what is hidden by blocks, so that a window costs less than the whole and no
mask of (seq, seq) is held. All kernels compute the scores and the softmax in fp32, also for fp16 and bf16 inputs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from neox.model.masks import sequence_mask

Kernel = Literal["sdpa", "flex", "flash_attn"]
HALVES = (torch.float16, torch.bfloat16)
# (score, row, head, query, key) -> score, each () as FlexAttention maps it over all of them
Score = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
AMPERE = (8, 0)  # the first GPUs that all of these kernels know
SHORT_SEQUENCE = 256  # tokens; at 256 and 4 x 16 heads of 32, 37 ms in bf16 and 20 by way of fp32, at 1024 42 and 51


@lru_cache
def kernel_for(
    seen: Literal["window", "documents", "biased"],
    *,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    drops: bool,
) -> Kernel:
    """What computes attention over whole sequences of which a token sees its window, or its document, or with a bias of the scores
    that a function gives.

    drops: probabilities are dropped out.
    """
    if device.type != "cuda" or dtype not in HALVES or torch.cuda.get_device_capability(device) < AMPERE:
        return "sdpa"
    if seen == "window" and head_dim <= 256 and find_spec("flash_attn"):
        return "flash_attn"
    return "flex" if head_dim >= 16 and not drops and _compiles_kernels() else "sdpa"


def _compiles_kernels() -> bool:
    """Whether Triton finds the C compiler that it starts its kernels with."""
    return any((os.environ.get("CC"), shutil.which("gcc"), shutil.which("clang")))


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    mask: Tensor | BlockMask | None = None,
    score: Score | None = None,
    causal: bool = False,
    window: int | None = None,
    scale: float,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(scale * queries keys^T + mask) values, (batch, heads, seq, head_dim).

    queries: (batch, heads, seq, head_dim). keys and values: (batch, groups, keys, head_dim), each group shared by
    heads / groups consecutive heads. mask: bool, True where a key is seen, or a bias of the scores, or FlexAttention's. score: what
    FlexAttention makes of each score before its softmax. causal: instead of a mask, each query sees itself and what is before it;
    window: of this, the last so many, where no mask of FlexAttention's says so.
    """
    if window is not None:
        assert causal and mask is None
        device, seq = queries.device, queries.shape[2]
        kernel = kernel_for("window", device=device, dtype=queries.dtype, head_dim=queries.shape[3], drops=dropout > 0)
        if kernel == "flash_attn":
            return _flash_attn(queries, keys, values, window, scale, dropout)
        causal, mask = False, sequence_mask(seq, window, device)
    group_size = queries.shape[1] // keys.shape[1]
    if isinstance(mask, BlockMask):
        flex = flex_attention if torch.compiler.is_compiling() else _compiled_flex()
        return flex(queries, keys, values, score, mask, scale, enable_gqa=group_size > 1)
    if mask is not None and queries.is_cuda:
        # the kernels that read masks know no groups, and want a bias in the queries' type
        mask = mask if mask.dtype == torch.bool else mask.to(queries.dtype)
        keys, values = keys.repeat_interleave(group_size, 1), values.repeat_interleave(group_size, 1)
        group_size = 1
    dtype = queries.dtype
    if _is_faster_in_fp32(queries, keys) and (mask is None or mask.dtype == torch.bool):
        queries, keys, values = queries.float(), keys.float(), values.float()
    return F.scaled_dot_product_attention(
        queries, keys, values, mask, dropout, is_causal=causal, scale=scale, enable_gqa=group_size > 1
    ).to(dtype)


def _is_faster_in_fp32(queries: Tensor, keys: Tensor) -> bool:
    """Whether torch's kernel of a CPU takes longer in 16 bits: its backward pass has a cost for each head that short sequences notice.

    Where there is none the answer is the same, so that a reference or an evaluation computes what training does.
    """
    whole = queries.shape[2] == keys.shape[2] <= SHORT_SEQUENCE
    return whole and queries.device.type == "cpu" and queries.dtype in HALVES


@lru_cache(maxsize=1)
def _compiled_flex():
    """FlexAttention is made to be compiled: as it is it holds all scores. Where a block is compiled it is part of that graph."""
    return torch.compile(flex_attention)


def _flash_attn(queries: Tensor, keys: Tensor, values: Tensor, window: int, scale: float, dropout: float) -> Tensor:
    """The package flash-attn (Dao, 2023, arXiv:2307.08691), whose tensors are (batch, seq, heads, head_dim)."""
    from flash_attn import flash_attn_func  # noqa: PLC0415 (optional package)

    by_token = (part.transpose(1, 2) for part in (queries, keys, values))
    # it counts the tokens to the left of a query, without itself
    mixed = flash_attn_func(*by_token, dropout_p=dropout, softmax_scale=scale, causal=True, window_size=(window - 1, 0))
    return mixed.transpose(1, 2)
