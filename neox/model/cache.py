"""Keys and values of the tokens seen so far, for generation. Filled by attention, driven by neox/inference.

Rows of a batch may start with padding (prompts of different lengths, aligned at their ends): positions are counted
from each row's first real token, and padding is seen by nobody. So rows may also join and leave while a batch goes on.
"""

from __future__ import annotations

import torch
from torch import Tensor


class KeyValueCache:
    """Up to `max_length` tokens, padding included, of `batch_size` rows in each block; the memory grows with what is held.

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
        empty = torch.empty((batch_size, heads, 0, head_dim), dtype=dtype, device=device)
        self._keys = [empty] * num_layers
        self._values = [empty] * num_layers
        self.max_length = max_length
        self.length = 0
        self.device = device
        self.padding = None
        self._set_padding(self._padding_of_rows() if padding is None else padding)

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store new (batch, heads, new, head_dim) after the `length` tokens held; all of them, as views."""
        stop = self.length + keys.shape[2]
        assert stop <= self.max_length, f"the cache has room for {self.max_length} tokens, not {stop}"
        for buffers, new in ((self._keys, keys), (self._values, values)):
            held = buffers[layer]
            if stop > held.shape[2]:
                buffers[layer] = self._room(held, len(held), stop)
                _place(held[:, :, : self.length], buffers[layer], self.length)
            buffers[layer][:, :, self.length : stop] = new
        return self._keys[layer][:, :, :stop], self._values[layer][:, :, :stop]

    def positions(self, new: int) -> Tensor:
        """(new, batch or 1) int64: positions of the next `new` tokens; padding has position 0."""
        positions = torch.arange(self.length, self.length + new, device=self.device).unsqueeze(1)
        return positions if self.padding is None else (positions - self.padding).clamp(min=0)

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with these rows alone, (kept,) int64 indices, and without the columns in which all of them have padding."""
        padding = self._padding_of_rows()[rows]
        unused = int(padding.min())
        self._set_padding(padding - unused)
        self._keys = [held[rows, :, unused:] for held in self._keys]
        self._values = [held[rows, :, unused:] for held in self._values]
        self.length -= unused

    def join(self, other: KeyValueCache) -> None:
        """Go on with the rows of another cache after these; the last tokens of all stand in one column."""
        length = max(self.length, other.length)
        self._set_padding(torch.cat([part._padding_of_rows() + length - part.length for part in (self, other)]))
        for buffers, others in ((self._keys, other._keys), (self._values, other._values)):
            for layer, (held, joining) in enumerate(zip(buffers, others)):
                buffers[layer] = self._room(held, len(held) + len(joining), length)
                _place(held[:, :, : self.length], buffers[layer][: len(held)], length)
                _place(joining[:, :, : other.length], buffers[layer][len(held) :], length)
        self.length = length

    def _padding_of_rows(self) -> Tensor:
        """(batch,) int64, zeros where no row has any."""
        if self.padding is not None:
            return self.padding
        return torch.zeros(len(self._keys[0]), dtype=torch.int64, device=self.device)

    def _set_padding(self, padding: Tensor) -> None:
        self.padding = padding.to(self.device) if padding.any() else None

    def _room(self, like: Tensor, rows: int, tokens: int) -> Tensor:
        """(rows, heads, columns, head_dim), unset: columns for the tokens and, where max_length allows, as many again."""
        return like.new_empty(rows, like.shape[1], min(2 * tokens, self.max_length), like.shape[3])


def _place(tokens: Tensor, room: Tensor, stop: int) -> None:
    """Put (rows, heads, tokens, head_dim) before column `stop` of the room, and zeros before them."""
    start = stop - tokens.shape[2]
    # padding has no weight, but nothing times no number would be no number
    room[:, :, :start] = 0
    room[:, :, start:stop] = tokens
