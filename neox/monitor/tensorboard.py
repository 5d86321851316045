"""Metrics to TensorBoard's event files. Imported only where `tensorboard_dir` is set: the package is optional."""

from __future__ import annotations

from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 5


class TensorBoard:
    """Writes each metric as a scalar over iterations."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        self._writer: SummaryWriter | None = None

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Write the metrics of one iteration."""
        if self._writer is None:
            # steps of an earlier start that are done again now are not drawn twice
            self._writer = SummaryWriter(self._folder, purge_step=iteration, flush_secs=FLUSH_SECONDS)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()
