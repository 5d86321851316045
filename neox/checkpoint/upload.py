"""Copy published checkpoints to an object store behind training's back, and fetch one from there.

Places are URLs of fsspec: `s3://bucket/run`, `gs://bucket/run`, `file:///folder`. Under one, a checkpoint has the files that it has
in its folder, and the object `latest` names the newest that is complete: it is written last. Keys come from the environment
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...), and no message shows them.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import fsspec

from neox.checkpoint import layout
from neox.checkpoint.layout import LATEST, MANIFEST, STEP_FOLDER, CheckpointError
from neox.config.errors import ConfigError

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
RETRY_SECONDS = (1.0, 5.0, 25.0)  # before each further try
AGAIN = "the run copies what it goes on from when it is started again"
SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")
Result = TypeVar("Result")


class Store:
    """The objects under one URL."""

    def __init__(self, key: str, url: str) -> None:
        """key: of the configuration, for messages. Raises ConfigError where the URL's package is not installed."""
        scheme = url.partition("://")[0]
        options = {"auto_mkdir": True} if scheme in ("file", "local") else {}
        try:
            # a client of its own, that keeps no listing: what others write there meanwhile must be seen
            options |= {"use_listings_cache": False, "skip_instance_cache": True}
            self._files, self._root = fsspec.url_to_fs(url, **options)
        except ImportError as error:
            package = PACKAGES.get(scheme, f"of fsspec for {scheme}")
            raise ConfigError(f"{key}: {scheme}:// needs the package {package}: pip install {package}") from error
        except ValueError as error:
            raise ConfigError(f"{key}: {url}: {error}") from error
        self.url = url

    def put(self, folder: Path) -> None:
        """Copy a checkpoint's folder and point `latest` to it, unless that was done before. Raises CheckpointError."""
        if self._has(folder):
            return
        names = [*sorted(set(layout.read_manifest(folder)["files"])), MANIFEST]

        def copy() -> None:
            for name in names:
                self._files.put_file(str(folder / name), f"{self._root}/{folder.name}/{name}")
            self._files.pipe_file(f"{self._root}/{LATEST}", f"{folder.name}\n".encode())

        self._asked(f"{folder.name} cannot be copied to {self.url}", copy)

    def _has(self, folder: Path) -> bool:
        """Whether `latest` names this very checkpoint."""
        try:
            named = self._files.cat_file(f"{self._root}/{LATEST}").decode().strip()
            manifest = self._files.cat_file(f"{self._root}/{folder.name}/{MANIFEST}")
            return named == folder.name and manifest == (folder / MANIFEST).read_bytes()
        except Exception:  # it is not there, or not for us to read: copying tells
            return False

    def newest(self) -> str:
        """The name of the newest checkpoint. Raises CheckpointError."""
        hint = f"{self.url} holds no checkpoint that can be read: it has no object {LATEST!r}, or the keys do not fit"
        content = self._asked(hint, lambda: self._files.cat_file(f"{self._root}/{LATEST}"))
        name = content.decode("utf-8", "replace").strip()
        if not STEP_FOLDER.fullmatch(name):
            raise CheckpointError(f"{self.url}/{LATEST} names {name[:80]!r}, which is no checkpoint")
        return name

    def fetch(self, name: str, target: Path) -> Path:
        """Copy the checkpoint of this name into the folder `target`, check it, and return its own folder. Raises CheckpointError."""
        folder = target / name
        folder.mkdir()
        self._get(name, MANIFEST, folder)
        files = layout.read_manifest(folder)["files"]
        if plain := [file for file in files if Path(file).name != file]:
            raise CheckpointError(f"{self.url}/{name}/{MANIFEST}: {plain[0]!r} is not a plain file name")
        needed, free = sum(size for size, _ in files.values()), shutil.disk_usage(folder).free
        if free < needed:
            raise CheckpointError(
                f"{self.url}/{name} takes {needed:,} bytes, and the disk of {target} has {free:,} free: set TMPDIR to "
                "a folder with more"
            )
        for file in files:
            self._get(name, file, folder)
        layout.verify(folder)
        return folder

    def _get(self, name: str, file: str, folder: Path) -> None:
        source = f"{self._root}/{name}/{file}"
        self._asked(f"{self.url}/{name}/{file}", lambda: self._files.get_file(source, str(folder / file)))

    def _asked(self, what: str, ask: Callable[[], Result]) -> Result:
        """What the store answers; its errors are of many kinds, and come out as one."""
        try:
            return ask()
        except Exception as error:
            raise CheckpointError(f"{what} ({_readable(error)})") from error


class Uploader:
    """Copies the newest checkpoint to a store, from a thread of its own; training neither waits for it nor fails with it.

    While one is copied the next waits, and a newer one takes its place.
    """

    def __init__(self, store: Store, timeout_seconds: float) -> None:
        """timeout_seconds: how long `close` waits."""
        self._store = store
        self._timeout_seconds = timeout_seconds
        self._changed = threading.Condition()
        self._copying: Path | None = None
        self._waiting: Path | None = None
        self._closed = False
        # a daemon: where a store never answers, the process must still be able to end
        self._thread = threading.Thread(target=self._work, name="uploader", daemon=True)
        self._thread.start()

    def offer(self, folder: Path) -> None:
        """Copy this published checkpoint next."""
        with self._changed:
            if self._waiting is not None:
                _say(f"{self._waiting.name} is not uploaded: {folder.name} is newer, and the store was still busy")
            self._waiting = folder
            self._changed.notify()

    def in_use(self) -> set[str]:
        """Names of checkpoints that are not to be removed yet."""
        with self._changed:
            return {folder.name for folder in (self._copying, self._waiting) if folder is not None}

    def close(self) -> None:
        """Return when the newest checkpoint is copied or cannot be, or, saying so, when the time for that is over."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            if last := self._waiting or self._copying:
                _say(f"waiting until {last.name} is at {self._store.url}, at most {self._timeout_seconds:g} s")
        self._thread.join(self._timeout_seconds)
        if self._thread.is_alive():
            _say(
                f"checkpoint_upload: {last.name} is not at {self._store.url} after {self._timeout_seconds:g} s "
                f"(checkpoint_upload_timeout_seconds): it is in {last} alone; {AGAIN}"
            )

    def _work(self) -> None:
        while True:
            with self._changed:
                self._copying = None
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                self._copying, self._waiting = self._waiting, None
            self._copy(self._copying)

    def _copy(self, folder: Path) -> None:
        for pause in (*RETRY_SECONDS, None):
            try:
                self._store.put(folder)
                return
            except CheckpointError as error:
                rest = f"again in {pause:g} s" if pause else f"given up: it is in {folder} alone; {AGAIN}"
                _say(f"checkpoint_upload: {error}: {rest}")
            if pause:
                time.sleep(pause)


def _readable(error: Exception) -> str:
    """The first line of an error, without a key should the store have quoted one."""
    text = str(error).partition("\n")[0] or type(error).__name__
    for name in SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
