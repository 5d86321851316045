"""The keys as a JSON schema, so that editors complete and check the YAML: `python -m neox.config.json_schema > configs/schema.json`.

A file may hold any part of the keys, so none is required. Keys that gpt-neox has and we have not are marked as deprecated, with
the reason. What only the rules between keys can tell is left to `deepy.py --dry-run`.
"""

from __future__ import annotations

import json
from typing import Any

from neox.config.known_keys import CHOICE_ALIASES, OTHER_KEYS
from neox.config.sections import Config


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of one YAML file."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for section in Config.model_fields.values():
        schema = section.annotation.model_json_schema()
        definitions |= schema.pop("$defs", {})
        properties |= schema["properties"]
    for key, other in OTHER_KEYS.items():
        if "." not in key:
            properties[key] = {"deprecated": True, "description": other.in_words()}
    _accept_other_spellings(properties, definitions)
    for definition in definitions.values():
        definition.pop("required", None)
        definition["patternProperties"] = HYPHENS
    return _without_titles(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "description": "keys of a run; configs/README.md lists them",
            "type": "object",
            "properties": properties,
            "patternProperties": HYPHENS,
            "additionalProperties": False,
            "$defs": definitions,
        }
    )


HYPHENS: dict[str, Any] = {"-": {}}  # num-layers is num_layers: accepted, but not completed


def _accept_other_spellings(properties: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Add the aliases of choices to the enumerations that hold them, and the accepted keys within dicts."""
    for key, aliases in CHOICE_ALIASES.items():
        name = key.rpartition(".")[2]
        holder = definitions["Optimizer"]["properties"] if key.startswith("optimizer.") else properties
        for choices in _enumerations(holder[name]):
            choices += [alias for alias in aliases if alias not in choices]
    holders = {
        "fp16": "Fp16",
        "bf16": "Bf16",
        "optimizer.params": "OptimizerParams",
        "zero_optimization": "ZeroOptimization",
    }
    for key, other in OTHER_KEYS.items():
        holder, _, name = key.rpartition(".")
        if holder in holders:
            definitions[holders[holder]]["properties"][name] = {"deprecated": True, "description": other.in_words()}


def _enumerations(schema: Any) -> list[list[Any]]:
    """The lists of choices in a property."""
    found = [schema["enum"]] if "enum" in schema else []
    for member in schema.get("anyOf", []):
        found += _enumerations(member)
    return found


def _without_titles(schema: Any) -> Any:
    """Pydantic's titles repeat the names of the keys."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_titles(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=1))
