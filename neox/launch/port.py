"""The port that the processes of a run meet at."""

from __future__ import annotations

import socket


def held_port(wanted: int | None) -> socket.socket:
    """A socket on the wanted TCP port where nobody listens on it, else on one that the system finds free.

    It does not listen, so that rank 0 can; while it is open the system gives the port to nobody who asks for a free one. Runs that
    start together would find the same fixed port free, so a port is only taken by number where one was asked for.
    """
    for port in (wanted or 0, 0):
        holder = socket.socket()
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # also: a port in TIME_WAIT is free
        try:
            holder.bind(("", port))
        except OSError:
            holder.close()
            continue
        return holder
    raise OSError("no free TCP port on this machine")


def port_of(holder: socket.socket) -> int:
    """The port that a socket is on."""
    return holder.getsockname()[1]


def free_port(wanted: int | None) -> int:
    """A port as `held_port` finds it, which is not held."""
    with held_port(wanted) as holder:
        return port_of(holder)
