"""Where the documents of packed samples lie, so that a token sees its own document only and positions begin anew with each."""

from __future__ import annotations

from torch import Tensor

from neox.model.masks import sequence_mask


class Documents:
    """The documents of one micro-batch, for all its layers.

    numbers: (batch, seq) int64, equal for the tokens of one document; None where tokens see what lies before their document too.
    positions: (batch, seq) int64, counted from the beginning of the document; None where they run through the sample.
    """

    def __init__(self, numbers: Tensor | None, positions: Tensor | None):
        self.numbers = numbers
        self.positions = positions
        self._masks: dict[int | None, Tensor] = {}

    def mask(self, window: int | None, causal: bool = True) -> Tensor:
        """(batch, 1, seq, seq) bool: which keys each query may see; made once for all layers of a kind.

        causal: what lies before it, within the window where there is one; otherwise all of its document.
        """
        assert self.numbers is not None
        if window not in self._masks:
            same = self.numbers[:, None, :, None] == self.numbers[:, None, None, :]
            seen = sequence_mask(self.numbers.shape[1], window, self.numbers.device) if causal else True
            self._masks[window] = same & seen
        return self._masks[window]
