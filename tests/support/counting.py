"""A model that counts: the next token is the last plus one. It can be held up, and it can fail."""

from __future__ import annotations

import threading

import torch

PATIENCE_SECONDS = 30


class CountingCache:
    """Counts what is read, as the real one does, and refuses more than it was made for."""

    def __init__(self, batch_size, max_length, padding):
        assert len(padding) == batch_size
        self.max_length, self.length, self.padding = max_length, 0, padding

    def keep_rows(self, rows):
        unused = self.padding[rows].min()
        self.padding, self.length = self.padding[rows] - unused, self.length - int(unused)

    def join(self, other):
        length = max(self.length, other.length)
        self.padding = torch.cat([cache.padding + length - cache.length for cache in (self, other)])
        self.length = length


class Counting(torch.nn.Module):
    """Instead of a GPT, for `vocab` tokens, the last of which is followed by the first.

    The likeliest ids of all are `padded` ones beyond them. goes_on: cleared, it holds the model up. fails_at: the token that it cannot
    read. sizes: rows of each call.
    """

    def __init__(self, vocab, padded=3, fails_at=None):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))
        self.vocab, self.padded, self.fails_at = vocab, padded, fails_at
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.sizes = []

    def new_cache(self, batch_size, max_length, padding):
        return CountingCache(batch_size, max_length, padding)

    def forward(self, tokens, cache, last_only):
        assert self.goes_on.wait(PATIENCE_SECONDS)
        if self.fails_at is not None and self.fails_at in tokens[:, -1]:
            raise RuntimeError("out of memory")
        cache.length += tokens.shape[1]
        assert cache.length <= cache.max_length
        assert tokens.shape[0] == len(cache.padding)
        assert last_only
        self.sizes.append(len(tokens))
        following = (tokens[:, -1] + 1) % self.vocab
        logits = torch.nn.functional.one_hot(following, self.vocab + self.padded).float() * 50
        logits[:, self.vocab :] = 1000
        return logits.unsqueeze(0)
