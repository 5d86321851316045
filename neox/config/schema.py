"""From keys as written to typed sections: types, choices, bounds and unknown keys, each mistake with its place.

Values are read by the type of their field: `1e-4` is a number, but `true` is no whole number, and `2.0` neither. A key whose value
is null counts as not given. Knows nothing about rules between keys.
"""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from neox.config.draft import Draft
from neox.config.known_keys import (
    CHOICE_ALIASES,
    OTHER_KEYS,
    SECRET_KEYS,
    UNSUPPORTED_CHOICES,
)
from neox.config.load import RawConfig, did_you_mean
from neox.config.places import Complaint, Place
from neox.config.sections import Config
from neox.config.yaml_nodes import Entries, Items, Node, Scalar, plain_value

FIELDS: dict[str, FieldInfo] = {
    key: section.annotation.model_fields[key]
    for section in Config.model_fields.values()
    for key in section.annotation.model_fields
}


class Unfit(Exception):
    """A value is not of its field's type."""


def typed(raw: RawConfig) -> Draft:
    """Sections of what is valid in raw. Broken keys hold their defaults there, and are listed as broken."""
    reading = _Reading()
    values = {
        key: reading.entry(key, raw.entries[key], raw.places[key], FIELDS)
        for key in raw.entries
        if reading.is_field(key, raw.entries[key], raw.places[key], FIELDS)
    }
    given = {key: value for key, value in values.items() if value is not None}
    sections = {name: reading.section(section.annotation, given) for name, section in Config.model_fields.items()}
    if raw.whole:
        reading.missing(raw)
    config = Config.model_construct(**sections)
    draft = Draft(config, reading.broken, reading.places, frozenset(given), raw.sources)
    draft.complaints = [*raw.complaints, *reading.complaints]
    if reading.without_effect:
        keys = ", ".join(sorted(reading.without_effect))
        draft.notes.append(f"keys without effect here (configs/README.md says why): {keys}")
    return draft


class _Reading:
    """Values of one configuration, and what went wrong on the way."""

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}
        self.broken: set[str] = set()
        self.complaints: list[Complaint] = []
        self.without_effect: set[str] = set()
        self.required: list[str] = []

    def complain(self, place: Place | None, key: str, sentence: str) -> None:
        self.complaints.append(Complaint(place, key, sentence))

    def is_field(self, key: str, node: Node, place: Place, fields: Mapping[str, FieldInfo]) -> bool:
        """Whether key is one of fields; where it is not, says what it is instead."""
        name = key.rpartition(".")[2]
        if name in fields:
            self.places[key] = place
            return True
        value = plain_value(node)
        other = OTHER_KEYS.get(key)
        if other is not None:
            if other.status == "without effect":
                if value is not None:
                    self.without_effect.add(key)
            elif not other.is_harmless(value):
                renamed = other.status == "renamed"
                self.complain(
                    place,
                    key,
                    f"is called {other.sentence} here" if renamed else f"{_shown(value)} is refused: {other.sentence}",
                )
        elif name in SECRET_KEYS:
            sentence = f"secrets do not belong in a file: export {SECRET_KEYS[name]}=... in the environment instead"
            self.complain(place, key, sentence)
        else:
            prefix = key[: len(key) - len(name)]
            known = [prefix + field for field in fields]
            near = did_you_mean(key, known) or ("" if prefix else did_you_mean(key, OTHER_KEYS))
            self.complain(place, key, f"there is no such key{near}")
        return False

    def entry(self, key: str, node: Node, place: Place, fields: Mapping[str, FieldInfo]) -> Any:
        """The value of a field, or None where it does not fit (then it is broken)."""
        try:
            return self.value(fields[key.rpartition(".")[2]].annotation, node, key)
        except Unfit as unfit:
            where = node.place if isinstance(node, Scalar) or node.place.line else place
            self.complain(where, key, str(unfit))
            self.broken.add(key)
            return None

    def value(self, annotation: Any, node: Node, key: str) -> Any:
        """The node as the annotation wants it; raises `Unfit`."""
        origin, arguments = get_origin(annotation), get_args(annotation)
        if origin is Annotated:
            return self.value(arguments[0], node, key)
        if origin in (Union, types.UnionType):
            return self.union(arguments, node, key)
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            return self.model(annotation, node, key)
        if origin is Literal:
            return _choice(arguments, node, key)
        if origin is list or origin is tuple:
            return self.sequence(origin, arguments, node, key)
        if origin is dict:
            if not isinstance(node, Entries):
                raise Unfit(f"wants a mapping, {{name: value, ...}}, not {_described(node)}")
            return plain_value(node)
        if annotation is Any:
            return plain_value(node)
        if isinstance(node, Scalar) and node.value is None:
            return None
        return SCALARS[annotation](node)

    def union(self, arguments: tuple[Any, ...], node: Node, key: str) -> Any:
        if isinstance(node, Scalar) and node.value is None:
            return None
        if isinstance(node, Scalar) and node.plain and node.text in ("None", "none"):
            raise Unfit(f"{node.text} is a word in YAML, not an absent value: write null, or leave the key out")
        (member,) = (argument for argument in arguments if argument is not types.NoneType)
        return self.value(member, node, key)

    def sequence(self, origin: type, arguments: tuple[Any, ...], node: Node, key: str) -> Any:
        if not isinstance(node, Items):
            raise Unfit(f"wants a list, [a, b, ...], not {_described(node)}")
        kinds = [arguments[0]] * len(node.items) if origin is list else list(arguments)
        if len(kinds) != len(node.items):
            raise Unfit(f"wants {len(kinds)} values, not {len(node.items)}")
        return origin(self.value(kind, item, key) for kind, item in zip(kinds, node.items, strict=True))

    def model(self, model: type[BaseModel], node: Node, key: str) -> dict[str, Any] | None:
        """The values of a dict with known keys; its mistakes are complaints of their own."""
        if isinstance(node, Scalar) and node.value is None:
            return None
        if not isinstance(node, Entries):
            raise Unfit(f"wants a mapping, as in {{{next(iter(model.model_fields))}: VALUE}}, not {_described(node)}")
        values = {}
        for name, entry in node.entries.items():
            path = f"{key}.{name.replace('-', '_')}"
            if self.is_field(path, entry, node.places[name], model.model_fields):
                value = self.entry(path, entry, node.places[name], model.model_fields)
                if value is not None:
                    values[name.replace("-", "_")] = value
        return values

    def section(self, section: type[BaseModel], given: Mapping[str, Any]) -> BaseModel:
        """A section of the given values; those out of bounds are complaints, and left at their defaults."""
        values = {key: given[key] for key in section.model_fields if key in given}
        for _ in range(3):  # a value out of bounds goes, then what was missing gets a number that nobody reads
            try:
                return section(**values)
            except ValidationError as error:
                for problem in error.errors():
                    self.problem(problem, values)
        raise AssertionError(f"{section.__name__} cannot be built from {values}")

    def problem(self, problem: Mapping[str, Any], values: dict[str, Any]) -> None:
        """Keep one of pydantic's findings and take its value out."""
        names = [str(part) for part in problem["loc"] if isinstance(part, str)]
        if problem["type"] == "missing":
            assert len(names) == 1, "only whole keys are required"
            if names[0] not in self.broken:
                self.required.append(names[0])
            self.broken.add(names[0])
            values[names[0]] = 1
            return
        names = _existing(names, values)
        key = ".".join(names)
        self.complain(self.places.get(key), key, _bound(problem))
        self.broken.add(key)
        holder = values
        for name in names[:-1]:
            holder = holder[name]
        holder.pop(names[-1], None)

    def missing(self, raw: RawConfig) -> None:
        """Complain about required keys that no file gives."""
        place = Place(order=len(raw.sources), source=", ".join(raw.sources)) if raw.sources else None
        for key in self.required:
            self.complain(place, key, f"is missing: {FIELDS[key].description}")


def _existing(names: list[str], values: Mapping[str, Any]) -> list[str]:
    """The part of a location that leads through dicts (pydantic adds the names of union members)."""
    path: list[str] = []
    holder: Any = values
    for name in names:
        if not isinstance(holder, Mapping) or name not in holder:
            break
        path.append(name)
        holder = holder[name]
    return path


def _bound(problem: Mapping[str, Any]) -> str:
    """Pydantic's finding as a sentence of ours."""
    words = {
        "greater_than": ("gt", "greater than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
    kind = problem["type"]
    if kind in words:
        bound, relation = words[kind]
        return f"must be {relation} {problem['ctx'][bound]:g}, not {problem['input']}"
    return f"{problem['msg']}, not {problem['input']!r}"


def _shown(value: Any) -> str:
    text = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _described(node: Node) -> str:
    """A node as it is told to the user."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Entries):
        return "a mapping"
    text = node.text if len(node.text) <= 60 else f"{node.text[:57]}..."
    return text if node.plain else f"the text {text!r}"


def _whole_number(node: Node) -> int:
    if isinstance(node, Scalar):
        value = node.value
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 1e18:
            if "." not in node.text:  # 5e8 is how one writes a big whole number
                return int(value)
            raise Unfit(f"wants a whole number, not {node.text}: write {int(value)}")
        if isinstance(value, str) and not node.plain and value.strip().lstrip("+-").isdecimal():
            raise Unfit(f"wants a whole number, not the text {value!r}: leave out the quotes")
    raise Unfit(f"wants a whole number, not {_described(node)}")


def _number(node: Node) -> float:
    if isinstance(node, Scalar) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        try:
            number = float(node.value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise Unfit(f"wants a finite number, not {_described(node)}")
        return number
    raise Unfit(f"wants a number, not {_described(node)}")


def _boolean(node: Node) -> bool:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return node.value
    raise Unfit(f"wants true or false, not {_described(node)}")


def _text(node: Node) -> str:
    if isinstance(node, Scalar) and not isinstance(node.value, bool):
        return node.text  # 125 or 2024-01-01 without quotes is text where text is wanted
    raise Unfit(f"wants text, not {_described(node)}" + ('; put it in "quotes"' if isinstance(node, Scalar) else ""))


SCALARS = {int: _whole_number, float: _number, bool: _boolean, str: _text}


def _choice(choices: tuple[Any, ...], node: Node, key: str) -> Any:
    """One of the choices; another spelling that means the same is turned into ours."""
    if isinstance(node, Scalar) and node.value is None:
        return None
    if all(isinstance(choice, int) for choice in choices):
        value: Any = _whole_number(node)
    else:
        value = _text(node)
        value = CHOICE_ALIASES.get(key, {}).get(value, value)
    if value in choices:
        return value
    if reason := UNSUPPORTED_CHOICES.get(key, {}).get(value):
        raise Unfit(f"{value} is not supported: {reason}")
    near = did_you_mean(str(value), map(str, choices))
    listed = ", ".join(str(choice) for choice in choices)
    raise Unfit(f"{_described(node)} is not one of {listed}{near}")
