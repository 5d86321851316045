"""Where the documents of packed samples lie, so that a token sees its own document only and positions begin anew with each."""

from __future__ import annotations

from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from neox.model.masks import sequence_mask, visible


class Documents:
    """The documents of one micro-batch, for all its layers.

    numbers: (batch, seq) int64, equal for the tokens of one document; None where tokens see what lies before their document too.
    positions: (batch, seq) int64, counted from the beginning of the document; None where they run through the sample.
    """

    def __init__(self, numbers: Tensor | None, positions: Tensor | None):
        self.numbers = numbers
        self.positions = positions
        self._masks: dict[int | None, Tensor | BlockMask] = {}

    def mask(self, window: int | None) -> Tensor | BlockMask:
        """Which keys each query may see, as it was prepared for layers of that window."""
        return self._masks[window]

    def prepare(self, window: int | None, *, causal: bool, blocks: bool) -> None:
        """Make the mask of all layers of a kind, unless it is there. Not for graphs that are compiled: it changes with each batch.

        causal: a query sees what lies before it in its document, within the window where there is one; otherwise all of its
        document. blocks: for FlexAttention; otherwise it is (batch, 1, seq, seq) bool.
        """
        assert self.numbers is not None
        if window not in self._masks:
            make = _document_blocks if blocks else _document_mask
            self._masks[window] = make(self.numbers, window, causal)


def _document_mask(numbers: Tensor, window: int | None, causal: bool) -> Tensor:
    same = numbers[:, None, :, None] == numbers[:, None, None, :]
    return same & sequence_mask(numbers.shape[1], window, numbers.device) if causal else same


def _document_blocks(numbers: Tensor, window: int | None, causal: bool) -> BlockMask:
    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same = numbers[row, query] == numbers[row, key]
        return same & visible(query - key, window) if causal else same

    rows, seq = numbers.shape
    return create_block_mask(seen, rows, None, seq, seq, device=numbers.device)
