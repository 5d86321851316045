"""Train a byte-level BPE vocabulary of the form of NeoX-20B's. Knows nothing about files."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

from neox.config.errors import ConfigError
from neox.tokenizer.encodings import END_OF_DOCUMENT

SPECIAL_TOKENS = (END_OF_DOCUMENT, "<|padding|>")  # ids 0 and 1
LONGEST_SPACE_RUN = 24  # runs of 2 to so many spaces are tokens, for code; they have the last ids
SMALLEST = len(SPECIAL_TOKENS) + 256 + LONGEST_SPACE_RUN - 1


def train_byte_level_bpe(texts: Iterable[str], vocab_size: int, show_progress: bool = False) -> tokenizers.Tokenizer:
    """A tokenizer with `vocab_size` ids, or fewer where the texts have no more pairs to merge.

    Raises ConfigError where the size leaves no room for the bytes and special tokens.
    """
    if vocab_size <= SMALLEST:
        raise ConfigError(
            f"--vocab-size: {vocab_size:,} leaves no room for merges: the bytes and special tokens take {SMALLEST}"
        )
    engine = tokenizers.Tokenizer(models.BPE())
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel(add_prefix_space=False)
    engine.post_processor = processors.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - (LONGEST_SPACE_RUN - 1),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    engine.train_from_iterator(texts, trainer)
    engine.add_tokens([AddedToken(" " * length, normalized=True) for length in range(LONGEST_SPACE_RUN, 1, -1)])
    return engine
