"""Keep arrays that are slow to build in a folder, built once by whichever process comes first. Knows nothing about samples.

    <folder>/<key>/<name>.npy     one entry; the folder gets its name only when all its arrays are complete
    <folder>/<key>.lock           held while the entry is built; the lock of a killed process is free again

So every process of a job asks at the same time, on a shared or a node-local disk, without a barrier.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy

from neox.config.errors import ConfigError
from neox.data.files import flush_folder, flush_to_disk, locked


def cached_arrays(
    folder: Path, key: str, names: Sequence[str], build: Callable[[], Sequence[numpy.ndarray]]
) -> list[numpy.ndarray]:
    """The arrays of an entry, mapped read-only from disk; `build` makes them, in the order of `names`, where there is none.

    Raises ConfigError that names the entry where its files are damaged.
    """

    def write(partial: Path) -> None:
        for name, array in zip(names, build(), strict=True):
            with open(partial / f"{name}.npy", "wb") as file:
                numpy.save(file, array)

    return cached_files(folder, key, names, write)


def cached_files(folder: Path, key: str, names: Sequence[str], write: Callable[[Path], object]) -> list[numpy.ndarray]:
    """As `cached_arrays`, for arrays that need not fit into memory: `write` puts each into the folder it is given, as `<name>.npy`."""
    entry = folder / key
    if not entry.is_dir():
        with locked(folder / f"{key}.lock") as alone:
            if not entry.is_dir():  # another process may have built it while we waited
                if alone:
                    for left_behind in folder.glob(f"{key}.*.partial"):  # by a process that was killed
                        shutil.rmtree(left_behind, ignore_errors=True)
                _publish(entry, write)
    try:
        # as plain arrays: to read one number of a numpy.memmap takes several times as long
        return [numpy.load(entry / f"{name}.npy", mmap_mode="r").view(numpy.ndarray) for name in names]
    except (OSError, ValueError) as error:
        raise ConfigError(f"{entry}: the index is damaged ({error}): remove this folder, it is built again") from error


def writable_folder(wanted: Path) -> Path:
    """A folder for entries: the wanted one, or one in the user's cache or the temporary folder where it cannot be written."""
    user_cache = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())
    for folder in (wanted, user_cache / "neox" / "index_cache", Path(tempfile.gettempdir()) / "neox_index_cache"):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
        except OSError:
            continue
    raise ConfigError(
        f"{wanted}: neither this folder nor the temporary folder can be written, for the index of the samples"
    )


def _publish(entry: Path, write: Callable[[Path], object]) -> None:
    """Let the files be written aside, and give the folder its name."""
    partial = Path(tempfile.mkdtemp(prefix=f"{entry.name}.", suffix=".partial", dir=entry.parent))
    try:
        partial.chmod(0o755)  # a shared cache: mkdtemp would keep others out
        write(partial)
        for path in partial.iterdir():
            with open(path, "rb") as file:
                flush_to_disk(file)
        flush_folder(partial)
        try:
            os.rename(partial, entry)
        except OSError:
            if not entry.is_dir():  # without locks another process may have been first, with the same arrays
                raise
        flush_folder(entry.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
