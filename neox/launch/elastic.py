"""One process of a run under torchrun: torchrun's elastic agent starts this in each place, and this starts the script there.

torchrun takes every exit code but 0 for a failure, starts again after it, and gives a process 30 seconds to end after a signal. A
run that stops takes as long as its checkpoint does and is not to start again: so signals come by the file of orders, as on other hosts
(`neox.launch.node`), and what is no failure to start again after ends with 0 and is told in a line of output.

    python -m torch.distributed.run --nnodes 2 ... -m neox.launch.elastic --orders FILE -- SCRIPT --config TEXT
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from neox.config.resolve import cuda_devices
from neox.launch.argv import Node, node_workers
from neox.launch.cores import usable_cores
from neox.launch.heard import heard
from neox.launch.node import Ending, end_with_launcher, obey
from neox.launch.orders import Orders
from neox.launch.restarts import DONE, FAILED
from neox.launch.supervise import Supervisor

ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str]) -> int:
    """Run the process in the place that torchrun's environment names; returns the exit code."""
    parser = argparse.ArgumentParser(prog="neox.launch.elastic", description=__doc__, allow_abbrev=False)
    parser.add_argument("--orders", required=True, help="file of the launcher's orders")
    parser.add_argument("--network-interface")
    parser.add_argument("script", nargs="+", help="the script and its arguments, after --")
    arguments = parser.parse_args(argv)
    orders = Orders(arguments.orders)
    # torchrun's own choice is one thread each
    environ = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | orders.environment()
    local_rank, processes = int(environ["LOCAL_RANK"]), int(environ["LOCAL_WORLD_SIZE"])
    node = Node(
        first_rank=int(environ["RANK"]) - local_rank,
        slots=tuple(range(processes)),
        world_size=int(environ["WORLD_SIZE"]),
        master_addr=environ["MASTER_ADDR"],
        master_port=int(environ["MASTER_PORT"]),
        network_interface=arguments.network_interface,
    )
    worker = node_workers(
        node,
        arguments.script,
        root=str(ROOT),
        environ=environ,
        cores=usable_cores(),
        devices=cuda_devices(environ),
    )[local_rank]
    with heard() as received:
        threading.Thread(target=obey, args=(orders,), daemon=True).start()
        threading.Thread(target=end_with_launcher, args=(orders,), daemon=True).start()
        supervisor = Supervisor([worker], environ, received, alone=False)
        code = supervisor.run()
        if code == DONE or (code == FAILED and not orders.to_stop()):
            return code
        Ending(code, socket.gethostname(), supervisor.failure).tell()
    return DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
