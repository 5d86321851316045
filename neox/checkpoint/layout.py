"""The folders of a run's checkpoints: names, manifest, `latest`, and which one is the newest good one. No torch.

    <save>/global_step<N>/   everything of step N: state files, index.json, progress.json, config.yml, manifest.json
    <save>/latest            the name of the newest complete one

A checkpoint is written under a temporary name and appears under its own by one rename, after its manifest (size and
SHA-256 of each file, and the SHA-256 of what it says itself) is on the disk; `latest` is replaced last. So a folder named
`global_step<N>` is complete, and what a killed run leaves behind starts with a dot and is swept away by the next start or
save: `.tmp-` is not complete yet, `.old-` is on its way out, and `.replaced-` made room for another of the same step; where
that did not come, it has its name again.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neox.data.files import flush_folder, write_durably

FORMAT = 1  # counts up where a program that knows the format until then would read something wrong, or not all of it
MANIFEST = "manifest.json"
SEAL = "sha256"  # the manifest's key for the SHA-256 of what else it says, the same in every format
LATEST = "latest"
REPLACED = ".replaced-"
STEP_FOLDER = re.compile(r"global_step(\d+)")


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or read; the message names the file and what to do."""


class UnknownFormat(CheckpointError):
    """A checkpoint of another version of this software: nothing is wrong with it."""


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint, as its manifest lists it."""

    name: str
    size_bytes: int
    sha256: str


def step_name(step: int) -> str:
    """Folder name of a step's checkpoint."""
    return f"global_step{step}"


def temporary_folder(save: Path, step: int) -> Path:
    """Folder that a checkpoint is written to before it is published; the same on every rank."""
    return save / f".tmp-{step_name(step)}"


def file_entry(path: Path) -> FileEntry:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return FileEntry(path.name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


def start(save: Path, step: int, size_bytes: int = 0) -> Path:
    """Make the empty temporary folder of a step, sweeping away what killed runs have left.

    Raises CheckpointError where the disk has less than `size_bytes` free.
    """
    save.mkdir(parents=True, exist_ok=True)
    sweep(save)
    free_bytes = shutil.disk_usage(save).free
    if free_bytes < size_bytes:
        raise CheckpointError(
            f"the checkpoint takes {size_bytes:,} bytes, and the disk has {free_bytes:,} free; the older checkpoints are kept"
        )
    folder = temporary_folder(save, step)
    folder.mkdir()
    return folder


def sweep(save: Path) -> None:
    """Remove what killed runs have left; what one was about to replace has its name again."""
    for replaced in save.glob(f"{REPLACED}*"):
        final = save / replaced.name.removeprefix(REPLACED)
        if final.exists():
            _retire(replaced, final.name)
        else:
            replaced.rename(final)
    for folder in _left_over(save):
        _remove(folder)


def left_over_bytes(save: Path) -> int:
    """Bytes of the disk that `sweep` gives back: before it, they count as free."""
    size_bytes = 0
    for folder in _left_over(save):
        with suppress(FileNotFoundError):  # of another run that is just ending
            size_bytes += sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))
    return size_bytes


def _left_over(save: Path) -> list[Path]:
    return [*save.glob(".tmp-global_step*"), *save.glob(".old-global_step*")]


def discard(save: Path, step: int) -> None:
    """Remove what a failed save has written."""
    _remove(temporary_folder(save, step))


def _remove(folder: Path) -> None:
    """Remove a folder that is no checkpoint any more, as far as the disk lets us: the next save sweeps up the rest."""
    shutil.rmtree(folder, ignore_errors=True)


def _retire(folder: Path, name: str) -> None:
    """Remove a checkpoint that had this name; renamed first, since one that is half removed must not look like a checkpoint."""
    doomed = folder.with_name(f".old-{name}")
    folder.rename(doomed)
    _remove(doomed)


def publish(save: Path, step: int, entries: list[FileEntry], written_by: Mapping[str, int]) -> Path:
    """Write the manifest of a complete temporary folder, give the folder its name, and point `latest` to it.

    written_by: the layout of the run, empty where there was none.
    """
    folder = temporary_folder(save, step)
    files = {entry.name: [entry.size_bytes, entry.sha256] for entry in entries}
    facts = {"format": FORMAT, "iteration": step, "layout": dict(written_by), "files": files}
    write_durably(folder / MANIFEST, encode_manifest(facts))
    final = save / step_name(step)
    _name(folder, final)
    _point_latest(save, final.name)
    return final


def _name(folder: Path, final: Path) -> None:
    """Give a complete folder its name; a step that is saved again replaces what an older run left under it."""
    if final.exists():
        replaced = final.with_name(f"{REPLACED}{final.name}")
        final.rename(replaced)
        folder.rename(final)
        _retire(replaced, final.name)
    else:
        folder.rename(final)
    flush_folder(final.parent)


def _point_latest(save: Path, name: str) -> None:
    write_durably(save / LATEST, f"{name}\n".encode())


def steps(save: Path) -> list[int]:
    """Steps that have a checkpoint in the folder, newest first."""
    if not save.is_dir():
        return []
    found = (STEP_FOLDER.fullmatch(entry.name) for entry in save.iterdir() if entry.is_dir())
    return sorted((int(match[1]) for match in found if match), reverse=True)


def encode_manifest(facts: Mapping[str, Any]) -> bytes:
    """The text of a manifest that says this, and its seal."""
    return json.dumps({**facts, SEAL: _seal(facts)}, indent=1).encode()


def _seal(facts: Mapping[str, Any]) -> str:
    """The SHA-256 of what a manifest says, in whatever order and with whatever spaces it says it."""
    unsealed = {key: value for key, value in facts.items() if key != SEAL}
    return hashlib.sha256(json.dumps(unsealed, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """The manifest of a checkpoint folder.

    Raises CheckpointError where there is none, it cannot be read, or it is not what was written, and UnknownFormat where a newer
    version has written it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        seal = _seal(manifest)
        if manifest.get(SEAL, seal) != seal:  # the first manifests have none
            raise CheckpointError(f"{path}: its SHA-256 is not the one in it: it has changed since it was saved")
        found = manifest.get("format", FORMAT)  # nor did the very first say that
        if found != FORMAT:
            raise UnknownFormat(
                f"{path}: a checkpoint of format {found!r}, and this version of the software reads format {FORMAT}: "
                "go on with the version that wrote it, or a newer one"
            )
        for key in ("files", "layout"):
            if not isinstance(manifest[key], dict):
                raise TypeError(f"{key} is not a table")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    return manifest


def verify(folder: Path, part: int = 0, parts: int = 1) -> dict:
    """Check every `parts`-th file of a checkpoint against its manifest, starting with file `part`; return the manifest.

    Raises CheckpointError naming the first file that is missing or has changed, and UnknownFormat as `read_manifest` does.
    """
    manifest = read_manifest(folder)
    for name, (size_bytes, sha256) in sorted(manifest["files"].items())[part::parts]:
        path = folder / name
        try:
            entry = file_entry(path)
        except OSError as error:
            raise CheckpointError(f"{path}: {error.strerror}") from error
        if entry.size_bytes != size_bytes:
            raise CheckpointError(f"{path}: {entry.size_bytes:,} bytes, but the manifest says {size_bytes:,}")
        if entry.sha256 != sha256:
            raise CheckpointError(f"{path}: its SHA-256 is not the manifest's: the file has changed since it was saved")
    return manifest


def candidates(save: Path) -> tuple[list[int], str | None]:
    """Steps to try in order, the one that `latest` names first, and a warning where `latest` does not name the newest."""
    found = steps(save)
    if not found:
        return [], None
    try:
        named = (save / LATEST).read_bytes().decode("utf-8", "replace").strip()
    except OSError as error:
        return found, f"{save / LATEST}: {error.strerror}"
    match = STEP_FOLDER.fullmatch(named)
    if match is None or int(match[1]) not in found:
        return found, f"{save / LATEST} names {named[:80]!r}, which is not a checkpoint in {save}"
    latest = int(match[1])
    newer = f"{save / LATEST} names {named}, though {step_name(found[0])} is newer" if latest != found[0] else None
    return [latest, *(step for step in found if step != latest)], newer


def prune(save: Path, keep: int | None, spared: Collection[str] = ()) -> list[str]:
    """Remove all but the newest `keep` checkpoints, never the one that `latest` names; return the removed names.

    spared: names that stay too, until the next time.
    """
    if keep is None:
        return []
    spared = {(save / LATEST).read_text().strip(), *spared}
    removed = [name for name in map(step_name, steps(save)[keep:]) if name not in spared]
    for name in removed:
        _retire(save / name, name)
    return removed
