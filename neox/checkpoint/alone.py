"""One run at a time in a folder of checkpoints: two would sweep away what the other one is writing, and mix their steps."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError
from neox.data.files import open_alone
from neox.parallel.agreement import together
from neox.parallel.topology import Topology

IN_USE = ".in_use"  # held by the first rank; there as long as the run, or until the next one where it was killed
PATIENCE_SECONDS = 60.0  # for one that is about to end, or whose machine has just been lost
POLL_SECONDS = 0.2


@contextmanager
def alone_in(save: str | None, topology: Topology) -> Iterator[None]:
    """Let no other run write to `save` while the body runs; one that is there is waited for, and what killed ones have left is swept
    away. Every rank calls this.

    Raises CheckpointError on all of them where it does not end. None is no folder, which nobody else writes to.
    """
    with ExitStack() as held:
        if save is not None:
            together(lambda: held.enter_context(_hold(Path(save))) if topology.is_main else None, CheckpointError)
        yield


@contextmanager
def _hold(save: Path) -> Iterator[None]:
    path, end, waited = save / IN_USE, time.monotonic() + PATIENCE_SECONDS, False
    while True:
        try:
            file = open_alone(path)
            break
        except BlockingIOError:
            if time.monotonic() > end:
                raise CheckpointError(
                    f"save: another run writes to {save}, and has not ended in {PATIENCE_SECONDS:g} s: end it, or give this one "
                    "a folder of its own"
                ) from None
        if not waited:
            print(f"save: another run writes to {save}: waiting for its end", file=sys.stderr, flush=True)
        waited = True
        time.sleep(POLL_SECONDS)
    with file:
        try:
            layout.sweep(save)
            yield
        finally:
            with suppress(OSError):  # the folder may be gone, and what happened to it counts
                path.unlink()
