"""The agent of one node in a run on many: starts the node's processes, watches them, and does what the launcher orders.

Its standard input is a lifeline: where it ends the launcher is gone, and everything here with it. How it ended is a line of output, since
pdsh, mpirun and srun each make something else of exit codes.

    env PYTHONPATH=ROOT python -m neox.launch.node --orders FILE --slots 0,1:0,1 --master-port 29500 ... -- SCRIPT --config TEXT
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from neox.config.errors import ConfigError
from neox.config.resolve import cuda_devices
from neox.launch.argv import Node, node_workers
from neox.launch.cores import usable_cores
from neox.launch.heard import FORWARDED, heard
from neox.launch.orders import Orders
from neox.launch.restarts import DONE, FAILED, REFUSED, Failure
from neox.launch.supervise import Supervisor

TOLD_LINES, TOLD_CHARACTERS = 5, 120  # of a failed rank's last lines
LIFELINE_SECONDS = 5.0  # between a cluster's signal and the end of the input, where both say that the launcher is gone
PASSED = {number.name for number in FORWARDED}
RANKS = ("OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_NODEID")  # of a host: OpenMPI's, MPICH's, Slurm's
# Of MPI: its processes are ours, which have no part in it; from its variables DeepSpeed would take their places.
HERE = "neox.launch.node is here: "  # and the host's number: the first line of an agent's output
MPI_VARIABLES = ("OMPI_", "PMIX_", "PMI_", "MPI_", "HYDI_", "HYDRA_")


@dataclass(frozen=True)
class Ending:
    """How the processes of a host ended, where that is not well; told in one line of output."""

    code: int
    host: str
    failure: Failure | None = None

    MARK = "neox.launch.node ended: "

    def tell(self) -> None:
        print(self.line(), flush=True)

    def line(self) -> str:
        """The line; MPI passes 4 KiB of output on in one piece, so it has few of the last lines, and not all of those."""
        failure = self.failure and Failure(
            self.failure.cause,
            self.failure.host,
            tuple(
                line[:TOLD_CHARACTERS].encode("ascii", "replace").decode() for line in self.failure.lines[-TOLD_LINES:]
            ),
        )
        told = {"code": self.code, "host": self.host, "failure": failure and asdict(failure)}
        return self.MARK + json.dumps(told)

    @classmethod
    def heard(cls, line: str) -> Ending | None:
        """The ending that a line tells, if it does."""
        _, mark, told = line.partition(cls.MARK)
        if not mark:
            return None
        try:
            fields = json.loads(told)
        except ValueError:  # somebody else's line
            return None
        failure = fields["failure"]
        return cls(fields["code"], fields["host"], failure and Failure(**{**failure, "lines": tuple(failure["lines"])}))


def main(argv: Sequence[str]) -> int:
    """Run the node's share; returns the exit code."""
    arguments = _parser().parse_args(argv)
    orders = Orders(arguments.orders)
    try:
        environ = _entered(arguments.folder, orders)
        rank = node_rank(environ) if arguments.node_rank is None else arguments.node_rank
        print(f"{HERE}{rank}", flush=True)
        address = arguments.master_addr or first_host(environ)
    except ConfigError as error:
        print(f"{socket.gethostname()}: {error}", flush=True)
        Ending(REFUSED, socket.gethostname()).tell()
        return FAILED
    of_workers = {name: value for name, value in environ.items() if not name.startswith(MPI_VARIABLES)}
    of_workers["TTY_COMPATIBLE"] = "0"  # mpirun gives them a terminal, and nobody sits at it
    slots = [tuple(int(slot) for slot in part.split(",")) for part in arguments.slots.split(":")]
    node = Node(
        first_rank=sum(map(len, slots[:rank])),
        slots=slots[rank],
        world_size=sum(map(len, slots)),
        master_addr=address,
        master_port=arguments.master_port,
        network_interface=arguments.network_interface,
    )
    workers = node_workers(
        node,
        arguments.script,
        root=os.environ["PYTHONPATH"].split(":")[0],
        environ=of_workers,
        cores=usable_cores(),
        devices=cuda_devices(environ),
    )
    lifeline = threading.Thread(target=end_with_launcher, args=(orders,), daemon=True)
    with heard() as received:
        threading.Thread(target=obey, args=(orders,), daemon=True).start()
        # MPI's input is the first agent's alone; it ends the others itself
        if has_lifeline := not any(environ.get(name, "0") != "0" for name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK")):
            lifeline.start()
        supervisor = Supervisor(workers, of_workers, received, alone=False)
        code = supervisor.run()
        # signals are still heard: one that comes now must not end this before it has told
        if code != DONE:
            Ending(code, socket.gethostname(), supervisor.failure).tell()
        if has_lifeline and supervisor.asked_to_stop and not orders.to_stop():
            lifeline.join(
                LIFELINE_SECONDS
            )  # not the launcher's order: where it is gone, who but this removes the orders?
    return FAILED if code in (FAILED, REFUSED) else DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neox.launch.node", description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", required=True, help="folder to run in")
    parser.add_argument("--orders", required=True, help="file of the launcher's orders")
    parser.add_argument("--slots", required=True, help="slots of every host: commas within one, colons between them")
    parser.add_argument(
        "--node-rank", type=int, help="number of this host; from Slurm's or MPI's environment by default"
    )
    parser.add_argument("--master-addr", help="address that the processes meet at; Slurm's first host by default")
    parser.add_argument("--master-port", type=int, required=True)
    parser.add_argument("--network-interface")
    parser.add_argument("script", nargs="+", help="the script and its arguments, after --")
    return parser


def _entered(folder: str, orders: Orders) -> dict[str, str]:
    """Go to the folder of the run; the environment there. Raises ConfigError."""
    try:
        os.chdir(folder)
        return {**os.environ, **orders.environment()}
    except OSError as error:
        raise ConfigError(
            f"{error.filename}: {error.strerror}: all machines must see the folder that the run is started in, under the same name"
        ) from error


def node_rank(environ: Mapping[str, str]) -> int:
    """The number of this host among those of the run, as Slurm or MPI tells it."""
    for name in RANKS:
        if name in environ:
            return int(environ[name])
    raise KeyError(f"none of {', '.join(RANKS)} is set: give --node-rank")


def first_host(environ: Mapping[str, str]) -> str:
    """The address of the first host of this Slurm step. Raises ConfigError where scontrol, which says why, does not tell."""
    names = environ.get("SLURM_STEP_NODELIST") or environ["SLURM_JOB_NODELIST"]

    def told(*words: str) -> list[str]:
        return subprocess.run(
            ["scontrol", "show", *words], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()

    try:
        name = told("hostnames", names)[0]
        shown = told("node", name)
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"the first host's address is not known ({error}): give master_addr") from error
    addresses = [word.partition("=")[2] for word in shown if word.startswith("NodeAddr=")]
    return addresses[0] if addresses else name


def obey(orders: Orders) -> None:
    """Signal this process as the launcher orders."""
    for name in orders.signals():
        if name in PASSED:
            os.kill(os.getpid(), signal.Signals[name])


def end_with_launcher(orders: Orders) -> None:
    """End this process, and with it the node's processes, where the launcher is gone."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    orders.close()
    os._exit(FAILED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
