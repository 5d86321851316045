"""Masked language modelling (BERT: Devlin et al. 2018, arXiv:1810.04805): some tokens of a sample are hidden, and predicted.

As many as `mlm_mask_prob` says are chosen, and they alone are learned. Most of them become the mask token, some a random token,
and some stay as they are, so that a model cannot rely on what it is shown. What is chosen follows from the seed and
the number of the sample alone, so that a resumed run reads it again as it was. Knows nothing about files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig
from neox.data.store import NO_LABEL
from neox.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Masking:
    """Ready to be done to samples."""

    data: DataConfig
    seed: int
    mask: int  # id of mlm_mask_token
    eod: int | None
    vocab_size: int

    def __call__(self, text: numpy.ndarray, number: int) -> tuple[numpy.ndarray, numpy.ndarray]:
        """The tokens of sample `number` as the model reads them, and their labels.

        A label stands one place later than the token that it tells, as it does where the next token is predicted. Ends of
        documents and masks in the text are never chosen, nor is the last token, which has no such place.
        """
        random = numpy.random.default_rng([self.seed, number])
        candidates = numpy.flatnonzero((text[:-1] != self.eod) & (text[:-1] != self.mask))
        count = max(1, round(candidates.size * self.data.mlm_mask_prob)) if candidates.size else 0
        chosen = random.choice(candidates, count, replace=False)  # an exact number of them, as in the paper's code
        labels = numpy.full(text.size, NO_LABEL, dtype=numpy.int64)
        labels[chosen + 1] = text[chosen]

        fates = random.random(count)
        same = self.data.mlm_same_token_prob
        kept, replaced = fates < same, (fates >= same) & (fates < same + self.data.mlm_random_token_prob)
        masked = text.astype(numpy.int64)
        masked[chosen[~kept]] = self.mask
        masked[chosen[replaced]] = self._random_tokens(random, int(replaced.sum()))
        return masked, labels

    def _random_tokens(self, random: numpy.random.Generator, count: int) -> numpy.ndarray:
        """Any tokens but the end of a document, which would make two of one."""
        if self.eod is None:
            return random.integers(0, self.vocab_size, count)
        tokens = random.integers(0, self.vocab_size - 1, count)
        return tokens + (tokens >= self.eod)


def masking(data: DataConfig, tokenizer: Tokenizer, seed: int) -> Masking:
    """What the mlm_* keys ask for. Raises ConfigError where the tokenizer lacks the mask token."""
    mask = tokenizer.token_id(data.mlm_mask_token)
    if mask is None:
        raise ConfigError(
            f"mlm_mask_token: the tokenizer has no token {data.mlm_mask_token}: give the name that it has, or add it, as "
            "docs/data.md shows for other tokens"
        )
    return Masking(data, seed, mask, tokenizer.eod, tokenizer.vocab_size)
