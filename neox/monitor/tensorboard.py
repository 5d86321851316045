"""Metrics to TensorBoard's event files. Imported only where `tensorboard_dir` is set: the package is optional."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 5


class TensorBoard:
    """Writes each metric as a scalar over iterations. A disk that is full ends this record, not the run: said once."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        self._writer: SummaryWriter | None = None
        self._failed = False

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Write the metrics of one iteration."""
        if self._failed:
            return
        with self._outlived():
            if self._writer is None:
                # steps of an earlier start that are done again now are not drawn twice
                self._writer = SummaryWriter(self._folder, purge_step=iteration, flush_secs=FLUSH_SECONDS)
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, iteration)

    def close(self) -> None:
        """Write what is left."""
        if self._writer is not None:
            with self._outlived():
                self._writer.close()

    @contextmanager
    def _outlived(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self._failed:
                print(
                    f"cannot write {self._folder}: {error.strerror}; training goes on without TensorBoard", flush=True
                )
            self._failed = True
