"""Run a function in a group of real processes that talk over gloo, and bring back what each of them returned.

The function lives in an importable module of tests/support; it takes its Topology and keyword arguments.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from support.forks import Fork

TIMEOUT_SECONDS = 300


def run_workers(
    work: Callable, folder: Path, *, processes: int, tensor: int = 1, pipe: int = 1, **arguments
) -> list[Any]:
    """`work(topology, **arguments)` on each of `processes` ranks; their results in rank order."""
    torch.save((work.__module__, work.__name__, {"tensor": tensor, "pipe": pipe}, arguments), folder / "work.pt")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment = {
        **os.environ,
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    workers, logs = [], [folder / f"rank{rank}.log" for rank in range(processes)]
    for rank, log in enumerate(logs):
        with log.open("wb") as output:
            ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            workers.append(Fork([__file__, str(folder)], {**environment, **ranks}, output))
    try:
        _wait(workers, logs)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(processes)]


def _wait(workers: list[Fork], logs: list[Path]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(worker.poll() is None for worker in workers):
        if time.monotonic() > deadline or any(worker.poll() for worker in workers):
            break
        time.sleep(0.05)
    codes = [worker.poll() for worker in workers]
    assert codes == [0] * len(workers), f"exit codes {codes}\n" + "\n".join(log.read_text() for log in logs)


def main(folder: Path) -> None:
    """One worker: join the group, do the work, leave the result."""
    from neox.config.sections import ParallelConfig  # noqa: PLC0415 - the parent needs none of this
    from neox.parallel.topology import initialize, shutdown  # noqa: PLC0415

    module, name, sizes, arguments = torch.load(folder / "work.pt", weights_only=False)
    parallel = ParallelConfig(
        model_parallel_size=sizes["tensor"],
        pipe_parallel_size=sizes["pipe"],
        global_num_gpus=int(os.environ["WORLD_SIZE"]),
    )
    topology = initialize(parallel)
    result = getattr(importlib.import_module(module), name)(topology, **arguments)
    torch.save(result, folder / f"rank{topology.rank}.pt")
    shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
