"""What a process finds out about itself; run in the workers of a group."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch.distributed import get_process_group_ranks

from neox.parallel.agreement import say_once
from neox.parallel.seeding import seed_everything, tensor_parallel_rng
from neox.parallel.topology import Topology

ROOT = Path(__file__).resolve().parents[2]


def where_am_i(topology: Topology) -> dict:
    """Name, groups as lists of ranks, and random numbers of this process."""
    seed_everything(1234, topology)
    shared = torch.rand(3).tolist()
    state = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with tensor_parallel_rng(topology):
            draws.append(torch.rand(3).tolist())
    after = torch.rand(3).tolist()
    torch.set_rng_state(state)
    with tensor_parallel_rng(topology):
        again = torch.rand(3).tolist()
    return {
        "name": str(topology),
        "tensor": get_process_group_ranks(topology.tensor_group),
        "pipe": get_process_group_ranks(topology.pipe_group),
        "data": get_process_group_ranks(topology.data_group),
        "model": get_process_group_ranks(topology.model_group),
        "first": topology.is_first_stage,
        "last": topology.is_last_stage,
        "main": topology.is_main,
        "shared": shared,
        "own": draws[0],
        "next": draws[1],
        "again": again,
        "after": after,
    }


def say_and_leave(topology: Topology, *, results: str) -> None:
    """Say what the others say too, later on each rank, and end at once, as ranks do that failed."""
    time.sleep(topology.rank)
    say_once("the same mistake")
    torch.save(None, Path(results) / f"rank{topology.rank}.pt")
    os._exit(0)


_LONE = """
import subprocess, sys
from neox.config.sections import ParallelConfig
from neox.parallel.topology import initialize, shutdown
topology = initialize(ParallelConfig(global_num_gpus=1))
print(topology, topology.device, topology.backend, flush=True)
if len(sys.argv) == 2:
    subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
shutdown()
"""


def one_process_without_a_launcher(folder: Path) -> str:
    """What a process prints that starts without any of the launcher's environment, and then another that it starts itself."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _LONE, _LONE]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.strip()
