"""The port that the processes of a run meet at."""

from __future__ import annotations

import socket


def free_port(wanted: int | None) -> int:
    """The wanted TCP port where nobody listens on it, else one that the system finds free.

    Runs that start together would find the same fixed port free, so a port is only taken by number where one was asked for.
    """
    for port in (wanted or 0, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise OSError("no free TCP port on this machine")
