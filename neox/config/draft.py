"""A configuration on its way: what is valid so far, which keys are broken, and what is to be said.

A rule may read any key. Reading a broken one stops that rule and no other, so that every rule runs whose inputs are valid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from neox.config.hosts import Host
from neox.config.places import Complaint, Place
from neox.config.sections import Config

SECTION_OF = {key: name for name, section in Config.model_fields.items() for key in section.annotation.model_fields}


class Broken(Exception):
    """A key was read that the user got wrong."""


class Refusal(Exception):
    """What the user wrote cannot be resolved; holds the keys that it is about and the sentence."""

    def __init__(self, keys: str, sentence: str) -> None:
        super().__init__(sentence)
        self.keys = keys
        self.sentence = sentence


class View:
    """A section (or the whole configuration) of which some keys are broken: reading one of these raises `Broken`."""

    def __init__(self, section: BaseModel, broken: frozenset[str], path: str = "") -> None:
        self._section = section
        self._broken = broken
        self._path = path

    def __getattr__(self, name: str) -> Any:
        section = self._section
        attribute = getattr(type(section), name, None)
        if isinstance(attribute, property):  # computed from the keys as this view shows them
            return attribute.fget(self)
        path = name if isinstance(section, Config) or not self._path else f"{self._path}.{name}"
        if path in self._broken:
            raise Broken(path)
        value = getattr(section, name)
        if not isinstance(value, BaseModel):
            return value
        return View(value, self._broken, "" if isinstance(section, Config) else path)


@dataclass
class Draft:
    """The configuration being resolved. Keys are flat names, dotted within dicts: `zero_optimization.stage`."""

    config: Config
    broken: set[str]
    places: Mapping[str, Place]  # of keys that the user gave, dotted within dicts
    given: frozenset[str]  # keys that the user gave
    sources: tuple[str, ...]
    hosts: list[Host] = field(default_factory=list)  # of a launcher for many machines
    complaints: list[Complaint] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def view(self) -> Any:
        """The configuration for reading; a broken key raises `Broken`."""
        return View(self.config, frozenset(self.broken))

    def complain(self, keys: str, sentence: str) -> None:
        """Keep a complaint. `keys` are separated by spaces: it points at the first that the user wrote."""
        names = keys.split()
        key = next((name for name in names if name in self.places), names[0])
        self.complaints.append(Complaint(self.places.get(key), key, sentence))

    def derive(self, outputs: str, function: Callable[[Any], Mapping[str, Any]]) -> None:
        """Fill keys with what function returns for the view; where it refuses, its outputs are broken too."""
        try:
            updates = function(self.view())
        except Broken:
            self.broken |= set(outputs.split())
        except Refusal as refusal:
            self.complain(refusal.keys, refusal.sentence)
            self.broken |= set(outputs.split())
        else:
            self.config = updated(self.config, updates)

    def check(self, rules: Iterable[Callable[[Any], Iterable[tuple[str, str]]]]) -> None:
        """Run rules, each of which yields (keys, sentence)."""
        for rule in rules:
            try:
                for keys, sentence in rule(self.view()):
                    self.complain(keys, sentence)
            except Broken:
                continue


def updated(config: Config, updates: Mapping[str, Any]) -> Config:
    """A new configuration with some flat keys replaced."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in updates.items():
        sections.setdefault(SECTION_OF[key], {})[key] = value
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections.items()}
    )
