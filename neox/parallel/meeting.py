"""Where the processes of a run meet: the store that rank 0 keeps, and who has not come to it."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from datetime import timedelta

import torch.distributed as dist

POLL_SECONDS = 0.05
WORD_SECONDS = 30.0  # for rank 0's word on who is there to reach the others


class MissingRanks(RuntimeError):
    """Processes of the run did not come to the meeting point; the message names them."""


def meet(rank: int, world_size: int, seconds: float) -> dist.Store:
    """The store that every process of the run has come to; all of them call this.

    Reads MASTER_ADDR and MASTER_PORT. Raises `MissingRanks` on rank 0 where some are missing after `seconds`; the others then leave
    with exit code 1, and leave it to rank 0 to say so. Where rank 0 itself is missing, everyone raises.
    """
    if (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    ):  # torchrun's agents have met already, and keep the store
        return next(dist.rendezvous("env://", rank=rank, world_size=world_size))[0]
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = dist.TCPStore(
            address,
            port,
            world_size,
            is_master=rank == 0,
            timeout=timedelta(seconds=seconds),
            wait_for_workers=False,
        )
    except dist.DistError as error:
        if rank == 0:
            raise
        raise MissingRanks(f"rank {rank} does not reach rank 0 at {address}:{port} in {seconds:g} s: {error}") from None
    store.set(f"here/{rank}", socket.gethostname())
    if rank == 0:
        missing = _missing(store, world_size, seconds)
        store.set("missing", json.dumps(missing))
        if missing:
            time.sleep(2 * POLL_SECONDS)  # the others hear it before the store goes with this process
            raise MissingRanks(_sentence(store, missing, world_size, f"{address}:{port}", seconds))
    else:
        store.wait(["missing"], timedelta(seconds=seconds + WORD_SECONDS))
        if json.loads(store.get("missing")):
            sys.exit(1)
    return store


def _missing(store: dist.Store, world_size: int, seconds: float) -> list[int]:
    """The ranks that have not come in some seconds."""
    missing = list(range(world_size))
    end = time.monotonic() + seconds
    while missing and time.monotonic() < end:
        missing = [rank for rank in missing if not store.check([f"here/{rank}"])]
        time.sleep(POLL_SECONDS if missing else 0)
    return missing


def _sentence(store: dist.Store, missing: list[int], world_size: int, place: str, seconds: float) -> str:
    hosts = sorted({store.get(f"here/{rank}").decode() for rank in range(world_size) if rank not in missing})
    return (
        f"of {world_size} processes, those of rank {ranks(missing)} did not come to {place} in {seconds:g} s; here are those on "
        f"{', '.join(hosts)}. See what the others print, and whether their hosts reach that address (network_interface, master_addr)"
    )


def ranks(numbers: list[int]) -> str:
    """Ranks as ranges: `0-2, 5`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts)
