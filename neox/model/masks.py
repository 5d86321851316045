"""Who may see whom: causality, windows and padding, as masks where the attention kernels need one."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from neox.model.cache import KeyValueCache


def distances(past: int, total: int, device: torch.device) -> Tensor:
    """(total - past, total) int64: how far each key lies before each query; queries are the last of the keys."""
    positions = torch.arange(total, device=device)
    return positions[past:, None] - positions


def visible(distance: Tensor, window: int | None) -> Tensor:
    """Which keys a query may see, bool: itself and what came before it, within the window where there is one."""
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


@lru_cache(maxsize=4)
def sequence_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """(length, length) bool mask of attention over a whole sequence; made once for all layers and steps."""
    return visible(distances(0, length, device), window)


@lru_cache(maxsize=4)
def sequence_blocks(length: int, window: int | None, device: torch.device) -> BlockMask:
    """The same for FlexAttention: which blocks of the mask are seen in whole, in part or not at all."""

    def seen(_row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return visible(query - key, window)

    return create_block_mask(seen, None, None, length, length, device=device)


def cached_mask(cache: KeyValueCache, new: int, window: int | None) -> Tensor:
    """(batch or 1, 1, new, keys) bool: the tokens that the cache holds, and the new ones that follow them."""
    distance = distances(cache.length, cache.length + new, cache.device)
    mask = visible(distance, window)[None, None]
    if cache.padding is not None:
        real = (torch.arange(distance.shape[1], device=cache.device) >= cache.padding[:, None])[:, None, None]
        # padding sees itself, so that its rows of the softmax are not empty (they would be NaN, and NaN spreads)
        mask = mask & (real | (distance == 0))
    return mask


def needs_mask(cache: KeyValueCache, new: int, window: int | None) -> bool:
    """Whether causality among the new tokens alone, or no mask at all for one token, would not say the same."""
    if window is not None and window < cache.length + new:
        return True
    return cache.padding is not None or (cache.length > 0 and new > 1)
