"""Before the first step: are all machines fit for the run, and of one mind about it? Costs a few small collectives."""

from __future__ import annotations

import hashlib
import platform
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
import torch.distributed as dist

from neox.checkpoint.layout import left_over_bytes
from neox.config.errors import ConfigError
from neox.config.sections import Config
from neox.config.sizes import parameter_counts
from neox.config.zero_memory import FP32, moment_bytes
from neox.parallel.agreement import gather_objects
from neox.parallel.meeting import ranks
from neox.parallel.topology import Topology

ROOT = Path(__file__).resolve().parents[2]
MOST_SKEW_SECONDS = 30.0  # between clocks; what is slower to answer than this is no clock either
# What NCCL takes of /dev/shm for each process; containers have 64 MiB for all of them where nobody asked for more.
SHARED_MEMORY_BYTES = 64 * 2**20
MARK = ".preflight-"  # begins the names of what is written to the folder of checkpoints, and removed at once
OLD_SECONDS = 3600.0  # of a mark that no living run has made


@dataclass(frozen=True)
class Facts:
    """What one process knows of its machine, to be compared with the others'."""

    host: str
    code: str  # SHA-256 of all files of it; which ones differ is asked where it does
    alike: dict[str, str]  # what else must be the same everywhere: the config, versions
    clock: float  # seconds since 1970
    sees_save: bool  # the folder of checkpoints is the one that rank 0 sees, and can be written
    free_disk_bytes: int | None  # there; None where nothing is saved
    shared_memory_bytes: int


def preflight(config: Config, vocab_size: int, topology: Topology) -> None:
    """Raise `ConfigError` on every rank, with a line for each host and what is wrong there. Every rank calls this."""
    facts = gather_objects(take_facts(config, topology))
    needed = (FP32 + moment_bytes(config)) * parameter_counts(config.model, vocab_size).total
    shared = SHARED_MEMORY_BYTES if topology.backend == "nccl" else 0
    complaints = [*compare(facts, disk_bytes=needed, shared_memory_bytes=shared), *_groups(topology)]
    complaints = sorted({complaint for found in gather_objects(complaints) for complaint in found})
    if any(one.code != facts[0].code for one in facts):
        complaints += _changed_files()
    if complaints:
        raise ConfigError(["preflight: the run does not begin", *_table(facts, complaints)])


def take_facts(config: Config, topology: Topology) -> Facts:
    """This process's own. Every rank calls this."""
    sees_save, free = True, None
    if config.checkpoint.save is not None:
        save = Path(config.checkpoint.save)
        sees_save = _sees_the_same(save, topology)
        free = shutil.disk_usage(save).free + left_over_bytes(save) if sees_save else None
    dist.barrier()
    return Facts(
        host=socket.gethostname(),
        code=hashlib.sha256(repr(code_files()).encode()).hexdigest(),
        alike={
            "config": hashlib.sha256(config.model_dump_json().encode()).hexdigest(),
            "Python": platform.python_version(),
            **{name: version(name) for name in ("torch", "deepspeed")},
        },
        clock=time.time(),
        sees_save=sees_save,
        free_disk_bytes=free,
        shared_memory_bytes=shutil.disk_usage("/dev/shm").free if Path("/dev/shm").is_dir() else 0,
    )


def compare(facts: Sequence[Facts], disk_bytes: int, shared_memory_bytes: int) -> Iterator[tuple[int, str]]:
    """What is wrong, as (rank, sentence); rank 0 is what the others are compared with.

    `disk_bytes` is the size of a checkpoint, `shared_memory_bytes` what a process takes of /dev/shm.
    """
    first = facts[0]
    for rank, one in enumerate(facts):
        for name, value in one.alike.items():
            if value != first.alike[name]:
                values = f": {value}, not {first.alike[name]}" if len(value) < 20 else ""
                yield rank, f"{name} is another than on {first.host}{values}"
        if abs(one.clock - first.clock) > MOST_SKEW_SECONDS:
            yield rank, f"the clock is {one.clock - first.clock:+.0f} s from that of {first.host}"
        if not one.sees_save:
            yield rank, f"the folder of save is not the one of {first.host}, or cannot be written"
        if one.free_disk_bytes is not None and one.free_disk_bytes < disk_bytes:
            yield (
                rank,
                f"save has {one.free_disk_bytes / 1e9:.2f} GB free, and a checkpoint takes {disk_bytes / 1e9:.2f} GB",
            )
        wanted = shared_memory_bytes * sum(other.host == one.host for other in facts)
        if one.shared_memory_bytes < wanted:
            yield (
                rank,
                f"/dev/shm has {one.shared_memory_bytes >> 20} MiB free, and NCCL wants {wanted >> 20} MiB "
                "(--shm-size of a container)",
            )


def code_files(root: Path = ROOT) -> dict[str, str]:
    """The SHA-256 of every file of the code, by its name."""
    paths = sorted([*(root / "neox").rglob("*.py"), *root.glob("*.py")])
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def _changed_files() -> list[tuple[int, str]]:
    """The names of the files that differ from rank 0's. Every rank calls this."""
    everyones = gather_objects(code_files())
    first = everyones[0]
    complaints = []
    for rank, files in enumerate(everyones):
        names = [name for name in sorted(first.keys() | files.keys()) if files.get(name) != first.get(name)]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            complaints.append((rank, f"other code: {', '.join(names[:3])}{more}"))
    return complaints


def _sees_the_same(folder: Path, topology: Topology) -> bool:
    """Whether a file that rank 0 writes in the folder is seen here, and can be removed. Every rank calls this."""
    name = gather_objects(f"{MARK}{uuid.uuid4().hex}")[0]
    mark, own = folder / name, folder / f"{name}-{topology.rank}"
    with suppress(OSError):  # nobody sees it then
        if topology.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            mark.touch()
            sweep_marks(folder, mark.stat().st_mtime)
    dist.barrier()
    try:
        good = mark.exists()
        if good:
            own.touch()
            own.unlink()
    except OSError:
        good = False
    dist.barrier()
    with suppress(OSError):
        if topology.is_main:
            mark.unlink()
    return good


def sweep_marks(folder: Path, now: float) -> None:
    """Remove the marks of runs that were killed in their preflight. now: by the clock of the folder's machine, which dates them."""
    for mark in folder.glob(f"{MARK}*"):
        with suppress(OSError):  # another start removes it too
            if now - mark.stat().st_mtime > OLD_SECONDS:
                mark.unlink()


def _groups(topology: Topology) -> Iterator[tuple[int, str]]:
    """A sum over each group of this process, which must come to the group's size. Every rank calls this."""
    for name in ("tensor", "data", "pipe", "model"):
        group = getattr(topology, f"{name}_group")
        ones = torch.ones(1, device=topology.device)
        dist.all_reduce(ones, group=group)
        if ones.item() != dist.get_world_size(group):
            yield topology.rank, f"a sum of ones over the {name} group comes to {ones.item():g}"


def _table(facts: Sequence[Facts], complaints: Sequence[tuple[int, str]]) -> list[str]:
    """A line for each host and sentence, with the ranks that it is about."""
    rows: dict[tuple[str, str], list[int]] = {}
    for rank, sentence in complaints:
        rows.setdefault((facts[rank].host, sentence), []).append(rank)
    width = max(len(host) for host, _ in rows)
    return [f"    {host:{width}}  rank {ranks(numbers)}: {sentence}" for (host, sentence), numbers in rows.items()]
