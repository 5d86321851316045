"""Write the checkpoints of a run, one at a time: while training waits, or behind its back.

Behind its back, training waits for the copy to the host's memory only. A thread writes, hashes and publishes; it talks to the
threads of the other ranks in a group of its own, so it waits for no step and no step waits for it. The next save, and the end of
the run however it comes, wait for the last one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import distributed

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError, FileEntry
from neox.checkpoint.publish import Progress, publish_state
from neox.checkpoint.state import Snapshot, TrainingState, snapshot
from neox.checkpoint.tensors import Weight, write_tensors
from neox.checkpoint.upload import Uploader
from neox.config.sections import CheckpointConfig
from neox.parallel.agreement import together

RETRY_SECONDS = 2.0  # a shared file system may fail for a moment; what fails twice is told


class Saver:
    """Saves as the section says. Every rank makes one and calls its methods; `with` waits for the last save at its end."""

    def __init__(
        self,
        state: TrainingState,
        config: CheckpointConfig,
        config_text: str,
        *,
        on_failure: Callable[[], None],
        uploader: Uploader | None,
    ) -> None:
        """on_failure: called from the thread where a save behind training's back has failed; `wait` raises its error.

        uploader: takes what was published; only the main rank has one.
        """
        self._state = state
        self._folder = Path(config.save)
        self._keep_last = config.keep_last_n_checkpoints
        self._config_text = config_text
        self._on_failure = on_failure
        self._uploader = uploader
        self._pool = ThreadPoolExecutor(1, "saver") if config.checkpoint_asynchronous else None
        self._buffers = {}
        self._pending: Future[None] | None = None
        several = state.topology.world_size > 1
        self._group = distributed.new_group(backend="gloo") if self._pool and several else None

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.wait()
        except Exception as error:
            if kind is None:
                raise
            print(error, file=sys.stderr, flush=True)  # another error is on its way, and the first one counts
        finally:
            if self._pool is not None:
                self._pool.shutdown()

    def save(self, progress: Progress) -> None:
        """Save the state as it is now, or begin to.

        Raises CheckpointError on every rank where one of them cannot write, now or the time before; the older checkpoints are
        untouched.
        """
        self.wait()
        share = snapshot(self._state, progress)
        if self._pool is None:
            self._write(share)
            return
        self._pending = self._pool.submit(self._write, share.copied(self._buffers))
        self._pending.add_done_callback(lambda done: done.exception() and self._on_failure())

    def wait(self) -> None:
        """Return once everything is published.

        Raises CheckpointError on every rank where the save behind training's back has failed.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, share: Snapshot) -> None:
        """Write and publish, at the second try if need be; all ranks fail together, so they try again together."""
        try:
            self._write_once(share)
        except CheckpointError as error:
            if self._state.topology.is_main:
                print(f"{error}\ntrying to save once more", file=sys.stderr, flush=True)
            time.sleep(RETRY_SECONDS)
            self._write_once(share)

    def _write_once(self, share: Snapshot) -> None:
        agreed = partial(together, error_type=CheckpointError, group=self._group)
        is_main, step = self._state.topology.is_main, share.progress.iteration
        size_bytes = sum(agreed(lambda: share.size_bytes))
        try:
            agreed(lambda: is_main and layout.start(self._folder, step, size_bytes) and None)
            path = layout.temporary_folder(self._folder, step) / share.file
            written = agreed(lambda: (write_tensors(path, share.tensors), share.weights))
            agreed(lambda: self._publish(share, written) if is_main else None)
        except CheckpointError as error:
            if is_main:
                layout.discard(self._folder, step)
            raise CheckpointError(f"save: {self._folder}: step {step} cannot be saved: {error}") from error

    def _publish(self, share: Snapshot, written: list[tuple[FileEntry, dict[str, Weight]]]) -> None:
        published = publish_state(
            self._folder,
            share.progress,
            share.counters,
            entries=[entry for entry, _ in written],
            weights=_merged([weights for _, weights in written]),
            moments=share.moments,
            config_text=self._config_text,
            written_by=share.layout,
        )
        if self._uploader is not None:
            self._uploader.offer(published)
        layout.prune(self._folder, self._keep_last, self._uploader.in_use() if self._uploader else ())


def _merged(ranks: list[dict[str, Weight]]) -> dict[str, Weight]:
    """Each weight with the pieces that all ranks have written of it."""
    merged: dict[str, Weight] = {}
    for weights in ranks:
        for name, weight in weights.items():
            merged[name] = replace(weight, pieces=(merged[name].pieces if name in merged else ()) + weight.pieces)
    return merged
