"""Share the corpora of a job among machines. Knows nothing about schedulers: a shard is a number of a number."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from neox.config.errors import ConfigError


@dataclass(frozen=True)
class Shard:
    """Shard `number` (from 1) of `count`. Each takes whole files that follow one another, so that the shards' token files, one
    after another, are the token files of all."""

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

    def of(self, paths: list[Path], sizes: list[int]) -> list[Path]:
        """The files of this shard, with about the same number of bytes as the others have."""
        if self.count > len(paths):
            raise ConfigError(
                f"--shard: {len(paths)} files cannot be shared among {self.count}: a shard takes whole files"
            )
        total = sum(sizes) or 1
        owners, owner = [], -1
        for index, (end, size) in enumerate(zip(accumulate(sizes), sizes)):
            fair = min(self.count - 1, int((end - size / 2) / total * self.count))
            # whatever the sizes are, no shard goes away with nothing
            owner = min(max(fair, self.count - (len(paths) - index)), owner + 1)
            owners.append(owner)
        return [path for path, owner in zip(paths, owners) if owner == self.number - 1]
