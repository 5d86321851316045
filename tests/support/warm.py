"""A process that has imported what runs import, and from which every run of the tests forks: imports cost five seconds a process.

A script; `support.forks` starts it, with the descriptor of a socket, and asks for runs there. The process that forks goes on as
`python SCRIPT ARGUMENT...` would: what it has of its own is its session, environment and output. Where it is a launcher, the
processes that this starts fork from it in turn. All else is as it is for users: who is whose parent, signals, exit codes, words.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import deepy  # noqa: F401
import generate  # noqa: F401
import train  # noqa: F401
from neox.launch import supervise

FAULTS = f"{Path(__file__).parents[1]}/faults/sitecustomize.py"
LONGEST_REQUEST = 1 << 20  # bytes; it holds an environment
FAILED = 1


def serve(channel: socket.socket) -> tuple[dict, list[int]]:
    """Fork for each request and tell how each child ended. Returns in the children, with their request and descriptors."""
    with selectors.DefaultSelector() as selector:
        selector.register(channel, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is channel:
                    request, descriptors, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
                    if not request:
                        os._exit(0)  # pytest has ended
                    child = os.fork()
                    if not child:
                        return json.loads(request), descriptors
                    selector.register(os.pidfd_open(child), selectors.EVENT_READ, child)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    channel.send(json.dumps({"started": child}).encode())
                else:
                    code = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    channel.send(json.dumps({"ended": key.data, "code": code}).encode())


class Forked(subprocess.Popen):
    """A process of the launcher that forks from it where a user's is a new Python."""

    def __init__(self, argv, *, env, preexec_fn, **options) -> None:
        def go_on() -> None:  # called in the child, where Python would begin anew after it
            preexec_fn()
            become(argv[1:], env)

        sys.stdout.flush()  # or the child would write it too
        super().__init__(argv, env=env, preexec_fn=go_on, **options)


def become(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Go on as a Python that starts with these arguments and this environment, and end as it does."""
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))  # not for this process; Popen waits for the end of one of them
    gc.enable()  # Popen has it wait for the new program
    _as_new_signals()
    os.environ.clear()
    os.environ.update(environment)
    if "NEOX_FAULT" in environment:
        runpy.run_path(FAULTS)
    unbuffered = argv[0] == "-u"
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stdout.reconfigure(write_through=unbuffered)
    sys.argv = list(argv[unbuffered:])
    code = FAILED
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        # as at the end of a Python, which has more to take apart
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        os._exit(code)


def _as_new_signals() -> None:
    """What a new Python does at each signal: only what is ignored is inherited."""
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)


def main(channel: socket.socket) -> NoReturn:
    supervise.subprocess = SimpleNamespace(Popen=Forked, PIPE=subprocess.PIPE, DEVNULL=subprocess.DEVNULL)
    gc.freeze()  # what is imported stays: no collection of a child's looks at it, and copies its pages
    request, streams = serve(channel)
    os.setsid()
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
    become(request["argv"], request["environment"])


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
