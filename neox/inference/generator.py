"""Generate token ids from a model. Knows nothing about text: callers encode and decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from neox.inference.sampling import Sampling, sample
from neox.model.gpt import GPT


@dataclass
class Completion:
    """What follows a prompt.

    ids: the generated tokens, the end of the document left out. finished: the model ended the document itself.
    message: why there is less than was asked for, None otherwise.
    """

    ids: list[int] = field(default_factory=list)
    finished: bool = False
    message: str | None = None


class Generator:
    """Continues prompts with a model, keeping keys and values of what it has read.

    vocab_size: the tokenizer's; ids beyond it, which pad the vocabulary, are never chosen. max_positions: longest
    sequence, prompt included. eod: id that ends a document, None where there is none.
    """

    def __init__(self, model: GPT, *, vocab_size: int, max_positions: int, eod: int | None) -> None:
        self._model = model.eval()
        self._vocab_size = vocab_size
        self._max_positions = max_positions
        self._eod = eod

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        maximum_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Completion]:
        """Continue each prompt (at least one id) by up to `maximum_tokens`, all prompts together.

        Each row draws from its own seed, so that what it becomes does not depend on the others in the batch.
        """
        completions = [Completion() for _ in prompts]
        # how many tokens each row may still get
        room = [min(maximum_tokens, self._max_positions - len(prompt)) for prompt in prompts]
        for prompt, space, completion in zip(prompts, room, completions):
            if space <= 0:
                completion.message = (
                    f"nothing was generated: the prompt has {len(prompt):,} tokens, "
                    f"and the model {self._max_positions:,} positions"
                )
        rows = [row for row, space in enumerate(room) if space > 0]
        if not rows:
            return completions

        steps = max(room[row] for row in rows)
        uniforms = self._uniforms([seeds[row] for row in rows], steps, sampling)
        tokens, padding = self._aligned_at_the_end([prompts[row] for row in rows])
        # the last token is not read any more
        cache = self._model.new_cache(len(rows), max_length=tokens.shape[1] + steps - 1, padding=padding)
        for step in range(steps):
            logits = self._model(tokens, cache, last_only=True)[-1, :, : self._vocab_size]
            chosen = sample(logits, sampling, uniforms[:, step])
            going_on = []
            for place, (row, token) in enumerate(zip(rows, chosen.tolist())):
                completion = completions[row]
                if token == self._eod:
                    completion.finished = True
                    continue
                completion.ids.append(token)
                if len(completion.ids) < room[row]:
                    going_on.append(place)
                elif room[row] < maximum_tokens:
                    completion.message = f"stopped at the last of the model's {self._max_positions:,} positions"
            if not going_on:
                break
            tokens = chosen.unsqueeze(1)
            if len(going_on) < len(rows):
                kept = torch.tensor(going_on, device=tokens.device)
                tokens, uniforms = tokens[kept], uniforms[kept]
                cache.keep_rows(kept)
                rows = [rows[place] for place in going_on]
        return completions

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _aligned_at_the_end(self, prompts: list[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Prompts as (batch, longest) ids with padding before the shorter ones, and its length in each row (batch,)."""
        longest = max(map(len, prompts))
        # any id serves: nobody sees the padding
        rows = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        padding = [longest - len(prompt) for prompt in prompts]
        return torch.tensor(rows, device=self._device), torch.tensor(padding, device=self._device)

    def _uniforms(self, seeds: list[int], steps: int, sampling: Sampling) -> Tensor:
        """Numbers of [0, 1) for every row and step, (batch, steps) float64; drawn on the CPU, so that every device agrees."""
        if sampling.greedy:
            return torch.zeros(len(seeds), steps, dtype=torch.float64, device=self._device)
        rows = [torch.rand(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return torch.stack(rows).to(self._device)
