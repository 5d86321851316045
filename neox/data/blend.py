"""How the training data of a configuration are drawn. Knows nothing about how that is shown."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from neox.config.epochs import training_lengths
from neox.config.sections import DataConfig
from neox.data.inspection import Drawn
from neox.data.mixtures import Part, mixture
from neox.data.samples import write_blending
from neox.data.store import check_store


def drawn_blend(data: DataConfig, seq_length: int, samples: int) -> list[Drawn]:
    """What the first `samples` training samples of `seq_length` tokens are drawn from, by the order that training follows.

    Raises ConfigError that names token files that are missing or damaged.
    """
    parts = mixture(data, "train") or [Part(data.data_path, 1.0)]
    for part in parts:
        check_store(part.prefix)
    with TemporaryDirectory() as folder:
        counts = write_blending(Path(folder), [part.share for part in parts], samples)
    rows = []
    for part, count in zip(parts, counts.tolist(), strict=True):
        tokens = sum(map(sum, training_lengths(part.prefix, "1" if data.training_paths else data.split)))
        rows.append(Drawn(part.prefix, part.share, count / samples, count * seq_length / tokens))
    return rows
