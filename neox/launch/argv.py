"""What each process of a local launch is started with: its arguments and its environment.

Pure: values in, values out. Secrets stay in the environment that the processes inherit, and never enter an argument.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neox.config.sections import LaunchConfig

LOCAL_ADDRESS = "127.0.0.1"


@dataclass(frozen=True)
class Worker:
    """One process to start."""

    rank: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]  # on top of what it inherits

    def command(self) -> list[str]:
        """The command that does the same from a shell."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items()), *self.argv]


def local_workers(
    launch: LaunchConfig,
    script: str,
    packed: str,
    *,
    root: str,
    environ: Mapping[str, str],
    cores: int,
    port: int,
    devices: int,
    python: str = sys.executable,
) -> list[Worker]:
    """One worker for each of `launch.num_gpus` processes on this machine.

    `packed` is the handed-over configuration, `root` the folder that `import neox` is found in, `environ` what the workers
    inherit, `cores` the cores they share, `port` the one they meet at, `devices` this machine's CUDA devices.
    """
    without_gpu = {
        # DeepSpeed warns, on every rank, where it has to find out by itself that there is no GPU
        "DS_ACCELERATOR": "cpu",
        # large pages: a step's tensors come and go, and page by page that costs a tenth of the step
        "GLIBC_TUNABLES": _joined("glibc.malloc.hugetlb=1", environ.get("GLIBC_TUNABLES", "")),
    }
    processes = launch.num_gpus
    assert processes is not None, "resolve() fills num_gpus"
    shared = {
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": launch.master_addr or LOCAL_ADDRESS,
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes)),
        "PYTHONPATH": _joined(root, environ.get("PYTHONPATH", "")),
        **({} if devices else without_gpu),
    }
    argv = (python, "-u", script, "--config", packed)
    return [Worker(rank, argv, {"RANK": str(rank), "LOCAL_RANK": str(rank), **shared}) for rank in range(processes)]


def _joined(first: str, others: str) -> str:
    """A list with colons that starts with first; what follows is what was there before."""
    rest: Sequence[str] = [part for part in others.split(":") if part and part != first]
    return ":".join([first, *rest])
