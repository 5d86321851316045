"""Find the checkpoint to load. All ranks read and check together; knows nothing about what is in it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError, UnknownFormat
from neox.parallel.agreement import together
from neox.parallel.topology import Topology


def newest(folder: Path, topology: Topology) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in `folder` that passes verification, and warnings about what was passed over.

    The ranks share the reading. Raises CheckpointError where there are checkpoints but none is good, and UnknownFormat where a
    newer version of this software has written one: to pass over that would go back without need.
    """
    found, warning = layout.candidates(folder)
    warnings = [warning] if warning and topology.rank == 0 else []
    for step in found:
        candidate = folder / layout.step_name(step)
        together(partial(layout.check_format, candidate), UnknownFormat)
        try:
            together(partial(_verify_share, candidate, topology), CheckpointError)
        except CheckpointError as error:
            warnings.append(f"{candidate.name} is damaged and was passed over: {error}")
            continue
        return candidate, warnings
    if found:
        raise CheckpointError(
            "\n".join(
                [f"{folder} holds checkpoints, but none that can be loaded; move it away to start anew:", *warnings]
            )
        )
    return None, warnings


def _verify_share(candidate: Path, topology: Topology) -> None:
    """Check this rank's share of the files."""
    layout.verify(candidate, topology.rank, topology.world_size)
