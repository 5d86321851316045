"""Who may see whom: causality, windows and padding, as masks where the attention kernels need one."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from neox.model.cache import KeyValueCache


def visible(queries: Tensor, keys: Tensor, window: int | None) -> Tensor:
    """(queries, keys) bool: which positions of `keys` each of `queries` may see; itself and what came before it."""
    distance = queries.unsqueeze(1) - keys.unsqueeze(0)
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


@lru_cache(maxsize=4)
def sequence_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """(length, length) bool mask of attention over a whole sequence; made once for all layers and steps."""
    positions = torch.arange(length, device=device)
    return visible(positions, positions, window)


def cached_mask(cache: KeyValueCache, new: int, window: int | None) -> Tensor:
    """(batch or 1, 1, new, keys) bool: the tokens that the cache holds, and the new ones that follow them."""
    keys = torch.arange(cache.length + new, device=cache.device)
    queries = keys[cache.length :]
    mask = visible(queries, keys, window)[None, None]
    if cache.padding is not None:
        real = (keys >= cache.padding[:, None])[:, None, None]
        # padding sees itself, so that its rows of the softmax are not empty (they would be NaN, and NaN spreads)
        mask = mask & (real | (queries[:, None] == keys))
    return mask


def needs_mask(cache: KeyValueCache | None, new: int, window: int | None) -> bool:
    """Whether causality among the new tokens alone, or no mask at all for one token, would not say the same."""
    total = new if cache is None else cache.length + new
    if window is not None and window < total:
        return True
    return cache is not None and (cache.padding is not None or (cache.length > 0 and new > 1))
