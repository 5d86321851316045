"""The page of all keys, written from the sections: `python -m neox.config.reference > configs/README.md`."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from neox.config.known_keys import CHOICE_ALIASES, OTHER_KEYS, UNSUPPORTED_CHOICES
from neox.config.sections import Config

HEAD = """\
# Configuration

A run is described by flat keys in YAML files: `python deepy.py train.py configs/125M.yml configs/mine.yml`. This page lists every
key. It is written from `neox/config/sections.py` by `python -m neox.config.reference > configs/README.md`.

- Files are read in order; `.yml` may be left out, and `-d FOLDER` says where they are.
- `-` and `_` spell the same key: `hidden-size` is `hidden_size`.
- A key that is given twice, in one file or in two, is an error. To override, use `--set KEY=VALUE ...`; dots lead into dicts:
  `--set zero_optimization.stage=2 optimizer.params.lr=3e-4`.
- `null` is the same as leaving the key out.
- All mistakes are reported at once, with file, line and column, before anything starts.
- Keys have gpt-neox's names and meanings; what became of its other keys is told at the end.
"""

REQUIRED = "**required**"
TYPE_WORDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}


def reference() -> str:
    """The whole page, as Markdown."""
    parts = [HEAD]
    for field in Config.model_fields.values():
        section = field.annotation
        parts.append(f"\n## {_first_line(section).rstrip('.')}\n\n{''.join(_table(section))}")
    parts += ["\n## Other keys of gpt-neox\n", "".join(_others())]
    return "".join(parts)


@dataclass(frozen=True)
class Entry:
    """One key: its dotted name, and what the page says of it."""

    key: str
    kind: str
    default: str  # empty where it is open, or stands with the keys below
    meaning: str


def entries() -> Iterator[Entry]:
    """Every key, in the order of the sections."""
    for field in Config.model_fields.values():
        yield from _entries(field.annotation, "")


def _entries(section: type[BaseModel], prefix: str) -> Iterator[Entry]:
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        inner = next((kind for kind in _members(field.annotation) if _is_section(kind)), None)
        kind = "keys below" if inner else _type_words(field.annotation)
        yield Entry(key, kind, "" if inner else _default(field), field.description or "")
        if inner:
            yield from _entries(inner, f"{key}.")


def _table(section: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | meaning |\n|---|---|---|---|\n"
    for entry in _entries(section, ""):
        default = f"`{entry.default}`" if entry.default and entry.default != REQUIRED else entry.default
        yield f"| `{entry.key}` | {_cell(entry.kind)} | {_cell(default)} | {_cell(entry.meaning)} |\n"


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return REQUIRED
    return "" if field.default is None else as_yaml(field.default)


def as_yaml(value: Any) -> str:
    """A value as one writes it in a file, on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump()
    return json.dumps(value, ensure_ascii=False)


def _type_words(annotation: Any) -> str:
    """A field's type as words."""
    kinds = list(_members(annotation))
    if len(kinds) == 1 and kinds[0] is not annotation:
        return _type_words(kinds[0])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in arguments)
    if origin is list:
        return f"list of {_plural(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)} {_plural(arguments[0])}"
    if origin is dict:
        return "mapping"
    return TYPE_WORDS[annotation]


def _plural(annotation: Any) -> str:
    words = _type_words(annotation)
    return f"{words}s" if words.endswith("number") else words


def _members(annotation: Any) -> Iterator[Any]:
    """The annotation without None and without bounds."""
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            if member is not types.NoneType:
                yield from _members(member)
    elif get_origin(annotation) is Annotated:
        yield from _members(get_args(annotation)[0])
    else:
        yield annotation


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _others() -> Iterator[str]:
    """The keys of gpt-neox that are no keys here, by what became of them."""
    titles = {
        "without effect": "Accepted without effect",
        "refused": "Refused, unless the value asks for nothing",
        "renamed": "Called by another name",
    }
    for status, title in titles.items():
        yield f"\n### {title}\n\n| key | {'name here' if status == 'renamed' else 'why, and what to use'} |\n|---|---|\n"
        entries = [(key, other) for key, other in OTHER_KEYS.items() if other.status == status]
        for sentence, group in groupby(entries, key=lambda entry: entry[1].sentence):
            keys = ", ".join(f"`{key}`" for key, _ in group)
            yield f"| {keys} | {_cell(f'`{sentence}`' if status == 'renamed' and ' ' not in sentence else sentence)} |\n"
    yield "\n### Choices\n\n| key | choice | instead |\n|---|---|---|\n"
    for key, choices in UNSUPPORTED_CHOICES.items():
        for sentence, group in groupby(choices.items(), key=lambda entry: entry[1]):
            names = ", ".join(f"`{choice}`" for choice, _ in group)
            yield f"| `{key}` | {names} | {_cell(sentence)} |\n"
    for key, aliases in CHOICE_ALIASES.items():
        for alias, name in aliases.items():
            yield f"| `{key}` | `{alias}` | the same as `{name}` |\n"


def _first_line(section: type[BaseModel]) -> str:
    return (section.__doc__ or section.__name__).splitlines()[0]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "\\n")


if __name__ == "__main__":
    print(reference(), end="")
