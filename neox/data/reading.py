"""What becomes of the tokens of a sample: labels, the mask of the loss, and where its documents lie. Knows nothing about files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch

from neox.data.store import NO_LABEL


@dataclass(frozen=True)
class Reading:
    """How samples of `seq_length` tokens are read. A document ends with the token `eod`; the keys below need one."""

    seq_length: int
    eod: int | None
    eod_mask_loss: bool = False
    reset_attention_mask: bool = False
    reset_position_ids: bool = False

    def sample(self, text: numpy.ndarray, labels: numpy.ndarray) -> dict[str, torch.Tensor]:
        """`tokens` and `labels`, int64, and `loss_mask`, float32; with the keys `documents` and `positions` too, int64. All are
        (seq_length,).

        text: up to seq_length + 1 tokens, integers; what is missing is padding, which nobody learns. labels: as many, those of the
        tokens themselves, negative where a token is not learned.
        """
        missing = self.seq_length + 1 - text.size
        # as ends of documents, so that each is a document of its own
        padding = 0 if self.eod is None else self.eod
        tokens = _filled(text, missing, padding)[:-1]
        targets = _filled(labels, missing, NO_LABEL)[1:]
        learned = targets >= 0
        if self.eod_mask_loss:
            learned &= tokens != self.eod
        sample = {"tokens": tokens, "labels": targets.clip(min=0), "loss_mask": learned.astype(numpy.float32)}
        if self.reset_attention_mask or self.reset_position_ids:
            begins = numpy.concatenate([[True], tokens[:-1] == self.eod])
        if self.reset_attention_mask:
            sample["documents"] = begins.cumsum()
        if self.reset_position_ids:
            places = numpy.arange(self.seq_length)
            sample["positions"] = places - numpy.maximum.accumulate(numpy.where(begins, places, 0))
        return {name: torch.from_numpy(part) for name, part in sample.items()}


def _filled(values: numpy.ndarray, missing: int, filling: int) -> numpy.ndarray:
    if missing:  # a sample that is packed lacks nothing
        values = numpy.concatenate([values, numpy.full(missing, filling)])
    return values.astype(numpy.int64, copy=False)
