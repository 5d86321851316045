"""Read YAML files and `--set` arguments into one set of keys, each of which knows where it was written.

Knows nothing about which keys exist or what they mean. Every mistake is kept as a complaint, so that it can be raised
together with the others.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from neox.config.places import Complaint, Place
from neox.config.yaml_nodes import Entries, Node, Scalar, parse

SUFFIXES = ("", ".yml", ".yaml", ".json")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RawConfig:
    """Keys as they were written: spelled with `_`, with their values, and where each stands."""

    entries: dict[str, Node]
    places: dict[str, Place]
    sources: tuple[str, ...]  # the files, as the user named them
    complaints: tuple[Complaint, ...]
    whole: bool = True  # False where a file could not be read: what is missing may stand there


def load(paths: Iterable[str | Path], conf_dir: str | Path | None = None, overrides: Iterable[str] = ()) -> RawConfig:
    """Read files in order, then `KEY=VALUE` overrides.

    A suffix `.yml` may be left out; relative paths are looked up in `conf_dir` where it is given. A key that two files
    give, or one file gives twice, is a complaint; an override replaces in silence, that is what it is for.
    """
    entries: dict[str, Node] = {}
    places: dict[str, Place] = {}
    complaints: list[Complaint] = []
    sources: list[str] = []
    paths, seen, whole = list(paths), set(), True
    for order, name in enumerate(paths):
        path, trouble = _find(name, conf_dir, order)
        if path is None:
            complaints.append(trouble)
            whole = False
            continue
        sources.append(str(path))
        if path.resolve() in seen:
            complaints.append(Complaint(Place(order, source=str(path)), "", "this file is given twice"))
            continue
        seen.add(path.resolve())
        root, problems = _read(path, order)
        complaints += problems
        whole = whole and root is not None
        for key, node in (root.entries if root else {}).items():
            word = key.replace("-", "_")
            if word in entries:
                sentence = f"is given twice; the other one is at {places[word]}. Remove one, or use --set {word}=VALUE"
                complaints.append(Complaint(root.places[key], word, sentence))
            else:
                entries[word], places[word] = node, root.places[key]
    for order, override in enumerate(overrides, start=len(paths)):
        problem = _override(entries, places, override, order)
        complaints += [problem] if problem else []
    return RawConfig(entries, places, tuple(sources), tuple(complaints), whole)


def load_text(text: str, source: str = "text") -> RawConfig:
    """The keys of YAML text that is in no file."""
    root, complaints = _mapping_of(text, source, 0)
    entries = {key.replace("-", "_"): node for key, node in (root.entries if root else {}).items()}
    places = {key.replace("-", "_"): place for key, place in (root.places if root else {}).items()}
    return RawConfig(entries, places, (source,), tuple(complaints))


def _find(name: str | Path, conf_dir: str | Path | None, order: int) -> tuple[Path | None, Complaint | None]:
    path = Path(name) if conf_dir is None else Path(conf_dir) / name
    place = Place(order, source=str(path))
    try:
        for candidate in _spellings(path):
            if candidate.is_file():
                return candidate, None
        if path.is_dir():
            return None, Complaint(place, "", "is a directory; give a YAML file, or -d DIRECTORY and names in it")
        if path.exists():
            return path, None  # a pipe, as of <(command) in a shell
        return None, Complaint(place, "", f"there is no such file{_meant(path)}")
    except (OSError, ValueError) as error:
        return None, Complaint(place, "", f"cannot be looked up: {_reason(error)}")


def _spellings(path: Path) -> list[Path]:
    return [path.with_name(path.name + suffix) if path.name else path for suffix in SUFFIXES]


def _meant(path: Path) -> str:
    """What is meant by a file that is not there: one with nearly that name, or one of our own, for a user in another folder."""
    if "=" in path.name:
        return "; KEY=VALUE comes after --set"
    names = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name if path.suffix in SUFFIXES[1:] else f"{path.name}.yml", names)
    ours = [*_spellings(ROOT / path), *_spellings(ROOT / "configs" / path)]
    return near or next((f"; did you mean {candidate}?" for candidate in ours if candidate.is_file()), "")


def _read(path: Path, order: int) -> tuple[Entries | None, list[Complaint]]:
    place = Place(order, source=str(path))
    try:
        content = path.read_bytes()
    except OSError as error:
        return None, [Complaint(place, "", f"cannot be read: {_reason(error)}")]
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        sentence = f"the byte 0x{content[error.start]:02x} is not UTF-8: save the file as UTF-8 text"
        return None, [Complaint(replace(place, line=line, column=column), "", sentence)]
    return _mapping_of(text, str(path), order)


def _mapping_of(text: str, source: str, order: int) -> tuple[Entries | None, list[Complaint]]:
    root, complaints = parse(text, source, order)
    if isinstance(root, Entries):
        return root, complaints
    if root is not None:
        complaints = [*complaints, Complaint(root.place, "", "holds no keys: write one `key: value` on each line")]
    elif not complaints:
        complaints = [Complaint(Place(order, source=source), "", "is empty: it holds no keys")]
    return None, complaints


def _override(entries: dict[str, Node], places: dict[str, Place], override: str, order: int) -> Complaint | None:
    """Put one `KEY=VALUE` into entries; dots lead into dicts."""
    place = Place(order, source=f"--set {override}")
    key, equals, text = override.partition("=")
    words = key.strip().replace("-", "_").split(".")
    if not equals or not all(words):
        return Complaint(place, "", "write KEY=VALUE, as in --set train_iters=100 zero_optimization.stage=1")
    node, complaints = parse(text.strip(), place.source, order, one_line=True)
    if complaints:
        return complaints[0]
    node = node or Scalar(None, "", plain=True, place=place)  # KEY= takes the value away
    old = entries.get(words[0])
    entries[words[0]] = _with(old, words[1:], node, place)
    if old is None or len(words) == 1:
        places[words[0]] = place
    return None


def _with(old: Node | None, words: Sequence[str], node: Node, place: Place) -> Node:
    """The old value of a key with the entry at words replaced."""
    if not words:
        return node
    entries = dict(old.entries) if isinstance(old, Entries) else {}
    places = dict(old.places) if isinstance(old, Entries) else {}
    word = next((key for key in entries if key.replace("-", "_") == words[0]), words[0])
    entries[word] = _with(entries.get(word), words[1:], node, place)
    places[word] = place
    return Entries(entries, places, old.place if isinstance(old, Entries) else place)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` where a known word is near, or one to three begin so; else nothing."""
    known = list(known)
    near = [name for name in known if word and name.startswith(word)]
    if not 1 <= len(near) <= 3:
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _reason(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
