"""The checkpoint that a run begins with: in a folder, or at a URL, from where each machine copies it. Found and checked once."""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path

from neox.checkpoint.layout import CheckpointError
from neox.checkpoint.newest import newest
from neox.checkpoint.upload import Store
from neox.data.files import open_alone
from neox.parallel.agreement import together
from neox.parallel.topology import Topology

COPIES = "neox-load-"  # in TMPDIR, each with a file that its process holds


class Source:
    """The newest good checkpoint of a place. Nothing is read until somebody asks for it; `with` removes the copy of a URL's."""

    def __init__(self, key: str, place: str, topology: Topology) -> None:
        """key: of the configuration, which names the place. place: a folder of checkpoints, or a URL as `checkpoint_upload` has it."""
        self._key, self._place, self._topology = key, place, topology
        self._copies = ExitStack()
        self._checkpoint: Path | None = None

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self._copies.close()

    @property
    def name(self) -> str:
        """The checkpoint, for people."""
        return f"{self._place} ({self.checkpoint.name})" if self._is_far else str(self.checkpoint)

    @property
    def checkpoint(self) -> Path:
        """Its folder, checked against its manifest. Every rank asks; all of them raise ConfigError or CheckpointError together."""
        if self._checkpoint is None:
            self._checkpoint = self._copied() if self._is_far else self._found()
        return self._checkpoint

    @property
    def _is_far(self) -> bool:
        return "://" in self._place

    def _found(self) -> Path:
        folder, warnings = newest(Path(self._place), self._topology)
        if folder is None:
            raise CheckpointError(f"{self._key}: {self._place} holds no checkpoint: train first, or correct the key")
        if warnings and self._topology.is_main:
            print(*warnings, sep="\n", file=sys.stderr, flush=True)
        return folder

    def _copied(self) -> Path:
        """The first rank says which is the newest, and the first of each machine copies it."""
        store, topology = Store(self._key, self._place), self._topology
        name = together(lambda: store.newest() if topology.is_main else None, CheckpointError)[0]
        copies = together(lambda: self._copy(store, name) if topology.local_rank == 0 else None, CheckpointError)
        return copies[topology.rank - topology.local_rank]

    def _copy(self, store: Store, name: str) -> Path:
        _sweep()
        folder = Path(tempfile.mkdtemp(prefix=COPIES))
        self._copies.callback(shutil.rmtree, folder, ignore_errors=True)
        self._copies.enter_context(_held(folder))
        return store.fetch(name, folder)


def _held(folder: Path):
    """The file that tells others that the copy in a folder is in use."""
    return open_alone(folder / "in_use")


def _sweep() -> None:
    """Remove copies whose processes were killed: each may be as large as the disk lets it."""
    for folder in Path(tempfile.gettempdir()).glob(f"{COPIES}*"):
        with suppress(OSError), _held(folder):  # BlockingIOError: in use; PermissionError: somebody else's
            shutil.rmtree(folder, ignore_errors=True)
