"""Answers about keys: where a value comes from, and which keys a word finds. Knows nothing about terminals."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from neox.config.draft import SECTION_OF
from neox.config.errors import ConfigError
from neox.config.known_keys import OTHER_KEYS
from neox.config.load import did_you_mean
from neox.config.read import Resolved
from neox.config.reference import REQUIRED, Entry, as_yaml, entries
from neox.config.sections import Config


def explain(key: str, resolved: Resolved) -> list[str]:
    """The value of a key (dotted within dicts), what set it, and its sentence, as lines.

    Raises `ConfigError` where there is no such key.
    """
    key = key.replace("-", "_")
    known = {entry.key: entry for entry in entries()}
    if key in OTHER_KEYS:
        return [f"{key}: {OTHER_KEYS[key].in_words()}"]
    if key not in known:
        raise ConfigError(f"--explain {key}: there is no such key{did_you_mean(key, [*known, *OTHER_KEYS])}")
    entry, written, now = known[key], _value(resolved.written, key), _value(resolved.config, key)
    return [
        f"{key}: {as_yaml(now)}",
        f"  {_origin(key, written, now, resolved)}",
        f"  {entry.meaning}",
        f"  {_facts(entry)}",
    ]


def _origin(key: str, written: Any, now: Any, resolved: Resolved) -> str:
    place = resolved.places.get(key)
    if place is not None and written == now:
        return f"set at {place}"
    if place is not None:
        return (
            f"set at {place} to {as_yaml(written)}, which the other keys made {as_yaml(now)}; the plan's notes say why"
        )
    if written == now:
        return "the default: no file sets it"
    return "worked out from the other keys and this machine: no file sets it"


def _value(config: Config, key: str) -> Any:
    first, *rest = key.split(".")
    value = getattr(getattr(config, SECTION_OF[first]), first)
    for name in rest:
        value = getattr(value, name) if isinstance(value, BaseModel) else None
    return value


def _facts(entry: Entry) -> str:
    kind = entry.kind.replace("`", "")
    if entry.default == REQUIRED:
        return f"{kind}, required"
    return f"{kind}, default {entry.default}" if entry.default else kind


def search(words: str) -> list[tuple[str, str]]:
    """Keys with all the words in their name, sentence or type, each with what it means; those of gpt-neox that we lack too."""
    found = [(entry.key, f"{entry.meaning} ({_facts(entry)})") for entry in entries()]
    found += [(key, other.in_words()) for key, other in OTHER_KEYS.items()]
    wanted = words.lower().replace("-", "_").split()
    return [(key, text) for key, text in found if all(word in f"{key} {text}".lower() for word in wanted)]
