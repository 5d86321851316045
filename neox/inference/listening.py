"""The server's socket, its connections and its end: uvicorn, with times that nobody can take beyond, and signals that let it finish."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from neox.config.errors import ConfigError
from neox.config.sections import ServingConfig
from neox.inference.answers import Writer
from neox.inference.gate import Gate
from neox.inference.protocol import ApiError

REQUEST_SECONDS = 10.0  # for a whole request, headers and body, from its first byte or the connection's
STALL_SECONDS = 30.0  # without a byte of the answer being taken
IDLE_SECONDS = 5  # between two requests of a connection
MOST_CONNECTIONS = 4_096
BACKLOG = 2_048  # connections that wait to be accepted
OTHER_FILES = 128  # that the process has open beside its connections
DRAIN_POLL_SECONDS = 0.05
CLOSE_SECONDS = 2  # for what is still to be sent at the end
LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
FAILED = 1

log = logging.getLogger("neox.serve")


def listening_socket(config: ServingConfig) -> socket.socket:
    """The socket, which others cannot have from here on; who comes before the weights are read waits. Raises ConfigError that names
    the key."""
    host, port = config.serve_host, config.serve_port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError) as error:
        raise ConfigError(f"serve_host: {host} is no address of a machine ({error})") from error
    listening = socket.socket(family, kind, protocol)
    try:
        # connections that have just ended do not keep a server from starting again; another server does
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        key = "serve_host" if error.errno == errno.EADDRNOTAVAIL else "serve_port"
        raise ConfigError(f"{key}: cannot listen at port {port} of {host}: {error.strerror}") from error
    return listening


def url_of(listening: socket.socket) -> str:
    """Where it is reached."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Connection(H11Protocol):
    """One connection. What takes too long is ended: with 408 where a request does not come, without a word where an answer is not taken."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._late: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        else:
            self._watch_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_request()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stalled = _cancelled(self._stalled)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._late, self._stalled = _cancelled(self._late), _cancelled(self._stalled)

    def _watch_request(self) -> None:
        """The time runs while a request is not whole; more of it does not make it longer."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY):
            self._late = _cancelled(self._late)
        elif self._late is None:
            self._late = self.loop.call_later(REQUEST_SECONDS, self._end_late)

    def _end_late(self) -> None:
        if self.cycle is None or not self.cycle.response_started or self.cycle.response_complete:
            self.transport.write(LATE)
        self.transport.close()


def _cancelled(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer, if there is one; None takes its place."""
    if timer is not None:
        timer.cancel()


class Server(uvicorn.Server):
    """Serves until a signal or a failure. The first signal lets requests end within the grace time, a second one ends at once."""

    def __init__(self, gate: Gate, writer: Writer, *, grace_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                gate,
                http=Connection,
                ws="none",
                lifespan="off",
                loop="asyncio",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=IDLE_SECONDS,
                timeout_graceful_shutdown=CLOSE_SECONDS,
            )
        )
        self.failed = False
        self._gate = gate
        self._writer = writer
        self._grace_seconds = grace_seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task | None = None

    def serve_at(self, listening: socket.socket) -> None:
        """Serve, to the end."""
        allow_files(MOST_CONNECTIONS + OTHER_FILES)
        self.run(sockets=[listening])

    def fail(self, error: Exception) -> None:
        """Called in the model's thread where it ends: nothing more can be written."""
        log.error("the model's thread failed", exc_info=error)
        self.failed = True
        self._loop.call_soon_threadsafe(self._end, ApiError(500, "the model failed; the server's log says how"))

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """In place of uvicorn's, under which a server that ends takes no connections, and so tells nobody."""
        self._loop = asyncio.get_running_loop()
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup does with SIGHUP
                self._loop.add_signal_handler(number, self._heard, number)
        yield

    def _heard(self, number: signal.Signals) -> None:
        if self._gate.draining:
            log.error("%s again: ending at once", number.name)
            os._exit(FAILED)  # whatever the model's thread is doing
        self._gate.draining = True
        log.info("%s: %d requests have %g s to end", number.name, self._gate.requests, self._grace_seconds)
        self._draining = self._loop.create_task(self._drain())

    async def _drain(self) -> None:
        end = time.monotonic() + self._grace_seconds
        while self._gate.requests and time.monotonic() < end:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        if self._gate.requests:
            log.warning("%d requests are cut off", self._gate.requests)
        self._end(ApiError(503, "the server is stopping"))

    def _end(self, error: ApiError) -> None:
        """Stop; what is being written ends with the error."""
        self._gate.draining = True
        self._writer.abort(error)
        self.should_exit = True


def allow_files(count: int) -> None:
    """Let this process have so many files open, or as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
