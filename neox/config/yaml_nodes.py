"""YAML text into plain nodes that know where they stand.

Plain scalars are read by their own rules, not by YAML 1.1's: `1e-4` is a number, `010` and `12:30` are text. Knows nothing
about keys or types. Hostile text (aliases that multiply, deep nesting, tags) ends in a complaint, in bounded time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from neox.config.places import Complaint, Place

DEEPEST = 40
MOST_VALUES = 100_000
LARGEST_TEXT = 2_000_000  # characters
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

NULL = re.compile(r"~|null|Null|NULL|")
TRUE = re.compile(r"true|True|TRUE|yes|Yes|YES|on|On|ON")
FALSE = re.compile(r"false|False|FALSE|no|No|NO|off|Off|OFF")
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,30})")
HEXADECIMAL = re.compile(r"0x[0-9a-fA-F]{1,16}")
FLOAT = re.compile(r"[-+]?(?:(?:0|[1-9][0-9_]{0,30})(?:\.[0-9_]{0,40})?|\.[0-9]{1,40})(?:[eE][-+]?[0-9]{1,4})?")
SPECIAL_FLOAT = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
PLAIN_TAGS = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ["null", "bool", "int", "float", "str", "seq", "map", "merge", "value", "timestamp"]
)


@dataclass(frozen=True)
class Scalar:
    """A single value: `value` as it reads by itself, `text` as it was written."""

    value: None | bool | int | float | str
    text: str
    plain: bool  # written without quotes
    place: Place


@dataclass(frozen=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True)
class Entries:
    """A mapping; `places` are those of its keys. Keys are spelled as they were written."""

    entries: dict[str, Node]
    places: dict[str, Place]
    place: Place


Node = Scalar | Items | Entries


class Unreadable(Exception):
    """The text cannot be read on; holds the complaint."""

    def __init__(self, complaint: Complaint) -> None:
        super().__init__(str(complaint))
        self.complaint = complaint


def plain_value(node: Node) -> Any:
    """The node as ordinary Python values."""
    if isinstance(node, Entries):
        return {key: plain_value(entry) for key, entry in node.entries.items()}
    if isinstance(node, Items):
        return [plain_value(item) for item in node.items]
    return node.value


def scalar_value(text: str) -> None | bool | int | float | str:
    """What a plain scalar means by itself."""
    if NULL.fullmatch(text):
        return None
    if TRUE.fullmatch(text):
        return True
    if FALSE.fullmatch(text):
        return False
    if INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if HEXADECIMAL.fullmatch(text):
        return int(text, 16)
    if FLOAT.fullmatch(text):
        return float(text.replace("_", ""))
    if special := SPECIAL_FLOAT.fullmatch(text):
        return float(special.group(1) + special.group(2).lower())
    return text


def parse(text: str, source: str, order: int, one_line: bool = False) -> tuple[Node | None, list[Complaint]]:
    """The root node of YAML text (None where the text holds nothing or cannot be read) and the complaints.

    `source` and `order` go into the places; with `one_line` places name the source alone (an argument, not a file).
    """
    reader = _Reader(source, order, one_line)
    try:
        return reader.read(text), reader.complaints
    except Unreadable as unreadable:
        return None, [*reader.complaints, unreadable.complaint]
    except yaml.MarkedYAMLError as error:
        return None, [*reader.complaints, reader.syntax_complaint(error, text)]
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        line = text.count("\n", 0, position) + 1
        column = position - (text.rfind("\n", 0, position) + 1) + 1
        place = reader.place_at(line, column)
        return None, [*reader.complaints, Complaint(place, "", f"a character that YAML forbids: {_readable(error)}")]


class _Reader:
    """One pass over one text."""

    def __init__(self, source: str, order: int, one_line: bool) -> None:
        self.source = source
        self.order = order
        self.one_line = one_line
        self.values = 0
        self.complaints: list[Complaint] = []

    def place_at(self, line: int, column: int) -> Place:
        if self.one_line:
            return Place(self.order, source=self.source)
        return Place(self.order, line, column, self.source)

    def place(self, mark: yaml.Mark | None) -> Place:
        if mark is None:
            return Place(self.order, source=self.source)
        return self.place_at(mark.line + 1, mark.column + 1)

    def read(self, text: str) -> Node | None:
        if len(text) > LARGEST_TEXT:
            raise Unreadable(
                Complaint(Place(self.order, source=self.source), "", "is over 2 MB: this is no configuration")
            )
        self.check_depth(text)
        root = yaml.compose(text, LOADER)
        return None if root is None else self.convert(root, depth=0)

    def check_depth(self, text: str) -> None:
        """Composing is recursive, reading events is not: so deep nesting is refused on the events."""
        depth = 0
        for event in yaml.parse(text, LOADER):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > DEEPEST:
                place = self.place(event.start_mark)
                raise Unreadable(Complaint(place, "", f"lists and mappings nest more than {DEEPEST} deep here"))

    def convert(self, node: yaml.Node, depth: int) -> Node:
        place = self.place(node.start_mark)
        self.values += 1
        if self.values > MOST_VALUES or depth > 2 * DEEPEST:  # deeper than the text itself: an alias within itself
            raise Unreadable(Complaint(place, "", "too large once its aliases (*name) are written out"))
        if node.tag not in PLAIN_TAGS:
            name = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise Unreadable(
                Complaint(place, "", f"the tag {name} is refused: a configuration holds plain values only")
            )
        if isinstance(node, yaml.SequenceNode):
            return Items(tuple(self.convert(item, depth + 1) for item in node.value), place)
        if isinstance(node, yaml.MappingNode):
            return self.convert_mapping(node, depth, place)
        plain = not node.style
        return Scalar(scalar_value(node.value) if plain else node.value, node.value, plain, place)

    def convert_mapping(self, node: yaml.MappingNode, depth: int, place: Place) -> Entries:
        entries: dict[str, Node] = {}
        places: dict[str, Place] = {}
        first_spelling: dict[str, str] = {}
        merged: list[Entries] = []
        for key_node, value_node in node.value:
            key_place = self.place(key_node.start_mark)
            value = self.convert(value_node, depth + 1)
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += self.merge_sources(value)
                continue
            if not isinstance(key_node, yaml.ScalarNode) or not key_node.value:
                self.complaints.append(Complaint(key_place, "", "a key must be a word"))
                continue
            key = key_node.value
            spelling = key.replace("-", "_")
            if spelling in first_spelling:
                other = places[first_spelling[spelling]]
                self.complaints.append(
                    Complaint(key_place, key, f"is given twice; the other one is at {other}. Remove one of them")
                )
                continue
            first_spelling[spelling] = key
            entries[key], places[key] = value, key_place
        for source in merged:
            for key, value in source.entries.items():
                if key.replace("-", "_") not in first_spelling:
                    first_spelling[key.replace("-", "_")] = key
                    entries[key], places[key] = value, source.places[key]
        return Entries(entries, places, place)

    def merge_sources(self, value: Node) -> Iterator[Entries]:
        """What `<<: *name` or `<<: [*name, *other]` brings in."""
        for item in value.items if isinstance(value, Items) else (value,):
            if isinstance(item, Entries):
                yield item
            else:
                self.complaints.append(Complaint(item.place, "<<", "can only merge mappings"))

    def syntax_complaint(self, error: yaml.MarkedYAMLError, text: str) -> Complaint:
        mark = error.problem_mark or error.context_mark
        sentence = f"this is not YAML: {_readable(error.problem)}"
        if error.context:
            sentence += f" ({_readable(error.context)}{self.since(error.context_mark)})"
        if mark is not None and text.splitlines()[mark.line : mark.line + 1] and "\t" in text.splitlines()[mark.line]:
            sentence += "; this line holds a tab: YAML wants spaces"
        return Complaint(self.place(mark), "", sentence)

    def since(self, mark: yaml.Mark | None) -> str:
        return "" if mark is None or self.one_line else f" that starts at line {mark.line + 1}"


def _readable(problem: object) -> str:
    """A library's message on one line."""
    return " ".join(str(problem).split())
