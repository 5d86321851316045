"""The resolved configuration as flat keys again, as a YAML file would give them."""

from __future__ import annotations

from typing import Any

import yaml

from neox.config.sections import Config


def flat_values(config: Config) -> dict[str, Any]:
    """Every key with its value, in plain YAML types; keys that are not set are left out."""
    sections = config.model_dump(mode="json", exclude_none=True)
    return {key: value for section in sections.values() for key, value in section.items()}


def to_yaml(config: Config) -> str:
    """The text of a config file that gives this configuration."""
    return yaml.safe_dump(flat_values(config), sort_keys=False, width=120)
