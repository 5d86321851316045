"""Keys and values of the tokens seen so far, for generation. Filled by attention, driven by neox/inference.

Rows of a batch may start with padding (prompts of different lengths, aligned at their ends): positions are counted
from each row's first real token, and padding is seen by nobody.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Room for `max_length` tokens, padding included, of `batch_size` rows in each block.

    length: tokens held now; `GPT.forward` moves it on.
    padding: (batch,) int64, padding tokens at the start of each row, or None where no row has any.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        batch_size: int,
        max_length: int,
        heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        padding: Tensor | None = None,
    ):
        shape = (num_layers, batch_size, heads, max_length, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)
        self.max_length = max_length
        self.length = 0
        self.padding = None if padding is None or not padding.any() else padding.to(device)

    @property
    def device(self) -> torch.device:
        """Where keys and values lie."""
        return self._keys.device

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new (batch, heads, new, head_dim) after the `length` tokens held; all of them, as views."""
        stop = self.length + keys.shape[2]
        assert stop <= self.max_length, f"the cache has room for {self.max_length} tokens, not {stop}"
        self._keys[layer, :, :, self.length : stop] = keys
        self._values[layer, :, :, self.length : stop] = values
        return self._keys[layer, :, :, :stop], self._values[layer, :, :, :stop]

    def positions(self, new: int) -> Tensor:
        """(new, batch or 1) int64: positions of the next `new` tokens; padding has position 0."""
        positions = torch.arange(self.length, self.length + new, device=self.device).unsqueeze(1)
        return positions if self.padding is None else (positions - self.padding).clamp(min=0)

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows alone, (kept,) int64 indices: the others have finished."""
        self._keys, self._values = self._keys[:, rows], self._values[:, rows]
        if self.padding is not None:
            self.padding = self.padding[rows]
