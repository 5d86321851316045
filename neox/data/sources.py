"""What a data set is made from, to the byte: the corpora's sizes, times and SHA-256. Knows nothing about what is in them."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path

from neox.config.errors import ConfigError
from neox.data.corpus import STANDARD_INPUT, open_corpus

BLOCK = 1 << 20


def stamp(path: Path) -> list[int]:
    """Size and time of change of a file, which differ when its content does."""
    if path == STANDARD_INPUT:
        return [0, 0]
    facts = path.stat()
    return [facts.st_size, facts.st_mtime_ns]


class SourceHashes:
    """SHA-256 of files, computed beside the work in a thread (hashing holds no lock), one file after another.

    `known` are those that an earlier run has found. Leaving the `with` block stops the work.
    """

    def __init__(self, paths: list[Path], known: dict[str, str]):
        self._known = dict(known)
        self._left = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._futures: dict[str, Future] = {
            str(path): self._pool.submit(self._sha256, path)
            for path in dict.fromkeys(paths)
            if path != STANDARD_INPUT and str(path) not in known
        }

    def __enter__(self) -> SourceHashes:
        return self

    def __exit__(self, *_) -> None:
        self._left.set()
        self._pool.shutdown(cancel_futures=True)

    def found(self) -> dict[str, str]:
        """The hashes that are ready, by file."""
        ready = {name: future.result() for name, future in self._futures.items() if _is_ready(future)}
        return self._known | ready

    def all(self) -> dict[str, str]:
        """The hashes of all files, once they are ready."""
        return self._known | {name: future.result() for name, future in self._futures.items()}

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with open_corpus(path) as file:
            while not self._left.is_set() and (block := file.read(BLOCK)):
                digest.update(block)
        if self._left.is_set():
            raise CancelledError
        return digest.hexdigest()


def _is_ready(future: Future) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def check_unchanged(paths: list[Path], stamps: list[list[int]]) -> None:
    """ConfigError where a file is no longer what it was when the job began."""
    changed = [
        f"{path}: it changed while it was read: start again" for path, old in zip(paths, stamps) if stamp(path) != old
    ]
    if changed:
        raise ConfigError(changed)
