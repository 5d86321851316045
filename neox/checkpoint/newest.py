"""Find the checkpoint to load. All ranks read and check together; knows nothing about what is in it."""

from __future__ import annotations

from pathlib import Path

from neox.checkpoint import layout
from neox.checkpoint.layout import CheckpointError, UnknownFormat
from neox.parallel.agreement import by_rank, together
from neox.parallel.topology import Topology, alone


def newest(folder: Path, topology: Topology) -> tuple[Path | None, list[str]]:
    """The newest checkpoint in `folder` that passes verification, and warnings about what was passed over.

    Every rank calls this, and the ranks share the reading. Raises CheckpointError where there are checkpoints but none is good,
    and UnknownFormat where a newer version of this software has written one: to pass over that would go back without need.
    """
    # the first rank's word: hosts see a network file system as it was some seconds ago, each at another moment
    found, warning = together(lambda: layout.candidates(folder) if topology.is_main else None, CheckpointError)[0]
    warnings = [warning] if warning else []
    for step in found:
        candidate = folder / layout.step_name(step)
        damage = by_rank(together(lambda candidate=candidate: _damage(candidate, topology), UnknownFormat))
        if not damage:
            return candidate, warnings
        warnings.append(f"{candidate.name} is damaged and was passed over: {damage}")
    if found:
        raise CheckpointError(
            "\n".join(
                [f"{folder} holds checkpoints, but none that can be loaded; move it away to start anew:", *warnings]
            )
        )
    return None, warnings


def named(path: Path) -> tuple[Path, list[str]]:
    """The verified checkpoint that a person means: the folder of one step, or the newest good one of a `save` folder; and warnings.

    For one process. Raises CheckpointError where there is none.
    """
    if (path / layout.MANIFEST).is_file():
        layout.verify(path)
        return path, []
    folder, warnings = newest(path, alone())
    if folder is None:
        raise CheckpointError(f"{path}: no checkpoint there: give a save folder, or the folder of one step in it")
    return folder, warnings


def _damage(candidate: Path, topology: Topology) -> str | None:
    """What is wrong with this rank's share of the files. Raises UnknownFormat."""
    try:
        layout.verify(candidate, topology.rank, topology.world_size)
    except UnknownFormat:
        raise
    except CheckpointError as error:
        return str(error)
    return None
