"""Lock a file, and publish one whole or not at all. Knows nothing about what is in it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# what file systems without locks answer (some mounts of Lustre and NFS)
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK}


def lock(file: BinaryIO, wait: bool) -> bool:
    """Hold a file for this process until it is closed or the process dies; False where the file system has no locks.

    Raises BlockingIOError where another process holds it and `wait` is false. Without locks files still stay whole, since they
    are published by rename: two processes only do the same work.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Run the body while holding a lock file (True), or where there are no locks (False); others wait.

    The file stays: removing it would break the lock of a waiter.
    """
    with open(path, "ab") as file:
        yield lock(file, wait=True)


def open_alone(path: Path) -> BinaryIO:
    """Open a lock file in a folder that may go with its last user, and hold it until it is closed.

    Makes the folder. Raises BlockingIOError where another process holds the file.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = open(path, "ab")  # noqa: SIM115 (the caller closes it)
        except FileNotFoundError:  # a run that just ended removed the folder between our two steps
            continue
        try:
            lock(file, wait=False)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # and here between open and lock
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that its name stands for the old content or the new, whole, whatever happens.

    What a killed process leaves behind starts with a dot.
    """
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        file.write(content)
        flush_to_disk(file)
    os.replace(partial, path)
    flush_folder(path.parent)


def flush_to_disk(file: BinaryIO) -> None:
    """Return once the bytes written so far would survive a power cut."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(folder: Path) -> None:
    """Return once the names in a folder (a rename, a removal) would survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
