"""What is started, and with which arguments and environment: the processes of a node, and the launcher that reaches many nodes.

Pure: values in, values out. Secrets stay in the environment, and never enter an argument.

On many nodes, pdsh, mpirun, mpiexec or srun starts one agent on each (`neox.launch.node`), which starts and watches the processes
there. torchrun has agents of its own, and starts `neox.launch.elastic` in the place of each process. Both read the environment and
every signal from a file of orders, so no argument needs more care than `shlex` takes.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from neox.config.hosts import Host
from neox.config.sections import LaunchConfig

LOCAL_ADDRESS = "127.0.0.1"
# What the processes on other hosts get of this environment; secrets are among it.
FORWARDED = (
    "NCCL_",
    "GLOO_",
    "UCX_",
    "FI_",
    "TORCH_",
    "OMP_",
    "DS_",
    "HF_",
    "WANDB_",
    "LD_LIBRARY_PATH",
    "GLIBC_TUNABLES",
)


@dataclass(frozen=True)
class Worker:
    """One process to start."""

    rank: int
    argv: tuple[str, ...]
    environment: Mapping[str, str]  # on top of what it inherits

    def command(self) -> list[str]:
        """The command that does the same from a shell."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items()), *self.argv]


@dataclass(frozen=True)
class Node:
    """One machine's share of a run, and where all processes meet."""

    first_rank: int
    slots: tuple[int, ...]  # one process each
    world_size: int
    master_addr: str
    master_port: int
    network_interface: str | None = None


def node_workers(
    node: Node,
    argv: Sequence[str],
    *,
    root: str,
    environ: Mapping[str, str],
    cores: int,
    devices: int,
    python: str = sys.executable,
) -> list[Worker]:
    """One worker for each slot of a node.

    `argv` is the script and its arguments, `root` the folder that `import neox` is found in, `environ` what the workers inherit,
    `cores` the cores they share, `devices` this machine's CUDA devices.
    """
    processes = len(node.slots)
    shared = {
        "WORLD_SIZE": str(node.world_size),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": node.master_addr,
        "MASTER_PORT": str(node.master_port),
        "OMP_NUM_THREADS": environ.get("OMP_NUM_THREADS") or str(max(1, cores // processes)),
        "PYTHONPATH": _joined(root, environ.get("PYTHONPATH", "")),
    }
    if node.network_interface:
        shared |= {"GLOO_SOCKET_IFNAME": node.network_interface, "NCCL_SOCKET_IFNAME": node.network_interface}
    if not devices:
        shared |= {
            # DeepSpeed warns, on every rank, where it has to find out by itself that there is no GPU
            "DS_ACCELERATOR": "cpu",
            # large pages: a step's tensors come and go, and page by page that costs a tenth of the step
            "GLIBC_TUNABLES": _joined("glibc.malloc.hugetlb=1", environ.get("GLIBC_TUNABLES", "")),
        }
    elif node.slots != tuple(range(processes)):  # the hostfile's slots are devices; LOCAL_RANK counts the visible ones
        shared["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, node.slots))
    command = (python, "-u", *argv)
    return [
        Worker(
            node.first_rank + local, command, {"RANK": str(node.first_rank + local), "LOCAL_RANK": str(local), **shared}
        )
        for local in range(processes)
    ]


def launcher_argv(
    launch: LaunchConfig,
    hosts: Sequence[Host],
    argv: Sequence[str],
    *,
    root: str,
    folder: str,
    orders: str,
    port: int,
    python: str = sys.executable,
) -> list[str]:
    """The command that starts an agent on every host; under torchrun, the one to start on every host.

    `argv` is the script and its arguments, `root` the folder that `import neox` is found in, `folder` the one to run in, `orders` the
    file that the agents read, `port` the one that all processes meet at.
    """
    if launch.launcher == "torchrun":
        return _torchrun(launch, hosts, list(argv), root, orders, port, python)
    agent = [
        *("env", f"PYTHONPATH={root}", python, "-u", "-m", "neox.launch.node"),
        *("--folder", folder, "--orders", orders),
        *("--slots", ":".join(",".join(map(str, host.slots)) for host in hosts)),
        *("--master-port", str(port)),
    ]
    if address := launch.master_addr or (hosts[0].name if launch.launcher != "slurm" else None):
        agent += ["--master-addr", address]
    if launch.network_interface:
        agent += ["--network-interface", launch.network_interface]
    return LAUNCHERS[launch.launcher](launch, hosts, agent, list(argv))


def _pdsh(launch: LaunchConfig, hosts: Sequence[Host], agent: list[str], argv: list[str]) -> list[str]:
    names = ",".join(host.name for host in hosts)
    # The words become one line for a shell on the other side, in which pdsh replaces %n by the host's number.
    words = shlex.join([*agent, "--node-rank", "NODE", "--", *argv]).replace("%", "%%").replace(" NODE ", " %n ", 1)
    return ["pdsh", "-S", "-N", "-R", "ssh", "-f", str(len(hosts)), *launch.launcher_args, "-w", names, words]


def _openmpi(launch: LaunchConfig, hosts: Sequence[Host], agent: list[str], argv: list[str]) -> list[str]:
    names = ",".join(f"{host.name}:1" for host in hosts)
    command = ["mpirun", "--host", names, "-n", str(len(hosts)), "--bind-to", "none"]
    return [*command, *launch.launcher_args, *agent, "--", *argv]


def _mpich(launch: LaunchConfig, hosts: Sequence[Host], agent: list[str], argv: list[str]) -> list[str]:
    names = ",".join(host.name for host in hosts)
    # the name under which MPICH's is found also where another MPI's mpiexec is installed
    command = ["mpiexec.hydra", "-hosts", names, "-ppn", "1", "-n", str(len(hosts))]
    return [*command, *launch.launcher_args, *agent, "--", *argv]


def _slurm(launch: LaunchConfig, hosts: Sequence[Host], agent: list[str], argv: list[str]) -> list[str]:
    count = str(len(hosts))
    command = ["srun", "--nodes", count, "--ntasks", count, "--ntasks-per-node", "1"]
    command += ["--kill-on-bad-exit=1", "--cpu-bind=none"]
    command += ["--account", launch.account] if launch.account else []
    command += ["--comment", launch.comment] if launch.comment else []
    return [*command, *launch.launcher_args, *agent, "--", *argv]


LAUNCHERS = {"pdsh": _pdsh, "openmpi": _openmpi, "mpich": _mpich, "slurm": _slurm}


def _torchrun(
    launch: LaunchConfig, hosts: Sequence[Host], argv: list[str], root: str, orders: str, port: int, python: str
) -> list[str]:
    """torchrun's elastic agent for this host. The agents find each other, and start again together, by themselves."""
    if len(hosts) == 1:
        variables, meeting = [], ["--standalone"]
    else:
        # the agents' shared store is told of once: one that takes a lost one's place waits for it in vain (torch 2.13)
        variables = ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "neox", "--rdzv-endpoint", f"{launch.master_addr}:{port}"]
    command = ["env", f"PYTHONPATH={root}", *variables, python, "-m", "torch.distributed.run"]
    command += ["--nnodes", str(len(hosts)), "--nproc-per-node", str(len(hosts[0].slots)), *meeting]
    command += ["--max-restarts", str(launch.max_restarts), *launch.launcher_args]
    command += ["-m", "neox.launch.elastic", "--orders", orders]
    if launch.network_interface:
        command += ["--network-interface", launch.network_interface]
    return [*command, "--", *argv]


def forwarded(environ: Mapping[str, str]) -> dict[str, str]:
    """What the agents are told of this environment."""
    return {name: value for name, value in environ.items() if name.startswith(FORWARDED)}


def _joined(first: str, others: str) -> str:
    """A list with colons that starts with first; what follows is what was there before."""
    rest: Sequence[str] = [part for part in others.split(":") if part and part != first]
    return ":".join([first, *rest])
