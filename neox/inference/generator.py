"""Generate token ids from a model. Knows nothing about text: callers encode and decode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from neox.inference.decoding import Batch, Row
from neox.inference.sampling import Sampling


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
    """Continues prompts, all that are given at a time together."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        maximum_tokens: int,
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Completion]:
        """Continue each prompt (at least one id) by up to `maximum_tokens`.

        Each row draws from its own seed, so that what it becomes does not depend on the others.
        """
        positions = self._batch.max_positions
        limits = [min(maximum_tokens, positions - len(prompt)) for prompt in prompts]
        rows = [Row(prompt, limit, sampling, seed) for prompt, limit, seed in zip(prompts, limits, seeds)]
        self._batch.join([row for row in rows if row.limit > 0])
        while self._batch.rows:
            self._batch.step()
        return [Completion(row.ids, row.finished, self._message(row, maximum_tokens)) for row in rows]

    def _message(self, row: Row, maximum_tokens: int) -> str | None:
        positions = f"{self._batch.max_positions:,} positions"
        if row.limit <= 0:
            return f"nothing was generated: the prompt has {len(row.prompt):,} tokens, and the model {positions}"
        if not row.finished and row.limit < maximum_tokens:
            return f"stopped at the last of the model's {positions}"
        return None
