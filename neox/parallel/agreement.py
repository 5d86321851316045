"""Ranks that agree: whether one of them has failed, and which of them says so."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from torch import distributed
from torch.distributed import ProcessGroup

from neox.parallel.meeting import ranks

Result = TypeVar("Result")
SECONDS_FOR_OTHERS = 3.0


def gather_objects(value: Result, group: ProcessGroup | None = None) -> list[Result]:
    """The value of every rank, in rank order, on every rank. Every rank calls this.

    group: all ranks again, for a thread that talks while the main one does; None is the main one's.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return [value]
    values: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value, group=group)
    return values


def together(
    work: Callable[[], Result], error_type: type[Exception], group: ProcessGroup | None = None
) -> list[Result]:
    """Run `work` on every rank and return all results; where one rank fails, every rank raises `error_type`.

    Without this, the ranks that succeed would wait in their next collective for the one that has failed. group: as in
    `gather_objects`.
    """
    try:
        outcome = work(), None
    except (OSError, ValueError, RuntimeError) as error:
        outcome = None, str(error) or type(error).__name__
    outcomes = gather_objects(outcome, group)
    if complaints := by_rank([complaint for _, complaint in outcomes]):
        raise error_type(complaints)
    return [result for result, _ in outcomes]


def by_rank(complaints: Sequence[str | None]) -> str:
    """What the ranks complain of, in rank order: a line for each complaint, with the ranks that have it; empty where none has one."""
    having: dict[str, list[int]] = {}
    for rank, complaint in enumerate(complaints):
        if complaint is not None:
            having.setdefault(complaint, []).append(rank)
    return "\n".join(f"rank {ranks(numbers)}: {complaint}" for complaint, numbers in having.items())


def say_once(text: str) -> None:
    """Print to standard error what no other rank has said yet. No collective: a rank that fails alone may call this too."""
    if not distributed.is_initialized():
        print(text, file=sys.stderr, flush=True)
        return
    store = distributed.distributed_c10d._get_default_store()
    said = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    try:
        if store.add(said, 1) == 1:
            print(text, file=sys.stderr, flush=True)
        if distributed.get_rank() == 0:  # the store goes with rank 0: first let those ask that fail with it
            end = time.monotonic() + SECONDS_FOR_OTHERS
            while store.add(said, 0) < distributed.get_world_size() and time.monotonic() < end:
                time.sleep(0.01)
    except RuntimeError:  # rank 0 is gone, and the store with it
        print(text, file=sys.stderr, flush=True)
