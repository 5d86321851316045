"""Share the corpora of a job among machines. Knows nothing about schedulers: a shard is a number of a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from neox.data.parts import Part


@dataclass(frozen=True)
class Shard:
    """Shard `number` (from 1) of `count`. Each takes what follows one another, so that the shards' token files, one after another,
    are the token files of all."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `I/N` names; ValueError where it is none."""
        number, count = map(int, text.split("/"))
        if not 1 <= number <= count:
            raise ValueError(text)
        return cls(number, count)

    @property
    def suffix(self) -> str:
        """What tells the output of this shard from that of the others."""
        return "" if self.count == 1 else f"_{self.number:05}-of-{self.count:05}"

    def of(self, paths: Sequence[Path], sizes: Sequence[int]) -> list[Part]:
        """The parts of files that are this shard's: of all their bytes, in order, as many as every other shard has."""
        total = sum(sizes)
        begin, end = (total * cut // self.count for cut in (self.number - 1, self.number))
        parts = []
        for path, size, offset in zip(paths, sizes, accumulate(sizes, initial=0)):
            part = Part(path, *(min(max(cut - offset, 0), size) for cut in (begin, end)), size)
            # an empty file has an owner too: it is among the sources of the whole
            if part.begin < part.end or (
                size == 0 and (begin <= offset < end or (offset == total and self.number == self.count))
            ):
                parts.append(part)
        return parts
