"""The one loop of generation: a batch whose rows join, get a token a step, and leave, each on its own (continuous batching; Yu et
al., Orca, 2022). Knows nothing about text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from neox.inference.sampling import Sampling, sample_each
from neox.model.cache import KeyValueCache
from neox.model.gpt import GPT


@dataclass(eq=False)
class Row:
    """A prompt (at least one id), and what follows it; equal only to itself.

    limit: how many tokens may follow, at least 1. seed: of the numbers that decide its tokens, and of no other row's.
    ids: what follows so far, the end of the document left out. finished: the model ended the document itself.
    """

    prompt: Sequence[int]
    limit: int
    sampling: Sampling
    seed: int
    ids: list[int] = field(default_factory=list)
    finished: bool = False

    @property
    def goes_on(self) -> bool:
        """Whether more is to follow."""
        return not self.finished and len(self.ids) < self.limit

    def next_uniform(self) -> float:
        """The number of [0, 1) that decides the next token, drawn on the CPU, so that every device agrees."""
        if self.sampling.greedy:
            return 0.0
        return torch.rand((), dtype=torch.float64, generator=self._random).item()

    @cached_property
    def _random(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


class Batch:
    """Rows that a model continues together, keeping keys and values of what it has read. What becomes of a row does not depend on
    the others, beyond rounding.

    No inference mode of torch's: tables that layers share, made in it, would be of no use to a training step later.

    vocab_size: the tokenizer's; ids beyond it, which pad the vocabulary, are never chosen. max_positions: longest
    sequence; no row's prompt and limit come to more. eod: id that ends a document, None where there is none.
    """

    def __init__(self, model: GPT, *, vocab_size: int, max_positions: int, eod: int | None) -> None:
        self.rows: list[Row] = []  # those that go on
        self._model = model.eval()
        self._vocab_size = vocab_size
        self.max_positions = max_positions
        self._eod = eod
        self._device = next(model.parameters()).device
        self._cache: KeyValueCache | None = None
        self._last: Tensor | None = None  # (rows,) tokens that the cache does not hold yet

    @torch.no_grad()
    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows, together, and add the first token to each."""
        if not rows:
            return
        tokens, padding = self._aligned_at_the_end([row.prompt for row in rows])
        cache = self._model.new_cache(len(rows), max_length=self.max_positions, padding=padding)
        going_on, last = self._advance(rows, tokens, cache)
        if not going_on:
            return
        if self.rows:
            self._cache.join(cache)
            last = torch.cat((self._last, last))
        else:
            self._cache = cache
        self.rows, self._last = [*self.rows, *going_on], last

    @torch.no_grad()
    def step(self) -> None:
        """Add a token to every row; those for which it is the last one leave."""
        self.rows, self._last = self._advance(self.rows, self._last.unsqueeze(1), self._cache)
        self._forget_if_empty()

    @torch.no_grad()
    def drop(self, rows: Collection[Row]) -> None:
        """Go on without these rows; those that have left already are passed over."""
        staying = [place for place, row in enumerate(self.rows) if row not in rows]
        self.rows, self._last = self._kept(staying, self.rows, self._last, self._cache)
        self._forget_if_empty()

    def _advance(self, rows: Sequence[Row], tokens: Tensor, cache: KeyValueCache) -> tuple[list[Row], Tensor]:
        """Read (batch, new) tokens and add the next one to each row; the rows that go on, and what they got, (rows,)."""
        logits = self._model(tokens, cache, last_only=True)[-1, :, : self._vocab_size]
        uniforms = torch.tensor([row.next_uniform() for row in rows], dtype=torch.float64, device=self._device)
        chosen = sample_each(logits, [row.sampling for row in rows], uniforms)
        for row, token in zip(rows, chosen.tolist()):
            if token == self._eod:
                row.finished = True
            else:
                row.ids.append(token)
        return self._kept([place for place, row in enumerate(rows) if row.goes_on], rows, chosen, cache)

    def _kept(
        self, places: list[int], rows: Sequence[Row], last: Tensor, cache: KeyValueCache
    ) -> tuple[list[Row], Tensor]:
        """The rows at these places and their last tokens, which are all that the cache goes on with."""
        if 0 < len(places) < len(rows):
            kept = torch.tensor(places, device=self._device)
            cache.keep_rows(kept)
            last = last[kept]
        return [rows[place] for place in places], last

    def _forget_if_empty(self) -> None:
        if not self.rows:
            self._cache = self._last = None  # their memory is of use to others

    def _aligned_at_the_end(self, prompts: list[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts as (batch, longest) ids with padding before the shorter ones, and its length in each row (batch,)."""
        longest = max(map(len, prompts))
        # any id serves: nobody sees the padding
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        padding = [longest - len(prompt) for prompt in prompts]
        return torch.tensor(rows, device=self._device), torch.tensor(padding, device=self._device)
