"""From files and overrides to a resolved, checked configuration: load, type, resolve, check, in this order.

All mistakes of all steps are raised together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from neox.config.errors import ConfigError
from neox.config.hosts import Host
from neox.config.load import RawConfig, load, load_text
from neox.config.places import Place, in_reading_order
from neox.config.resolve import Surroundings, cuda_devices, resolve
from neox.config.rules import GENERATION_RULES, RULES, TRAINING_RULES, TRAINING_WARNINGS
from neox.config.schema import typed
from neox.config.sections import Config
from neox.config.surroundings import look_around


@dataclass(frozen=True)
class Resolved:
    """A configuration in which nothing is open, and what the user should know about it."""

    config: Config
    notes: tuple[str, ...]
    written: Config  # what the user gave, before anything was worked out
    places: Mapping[str, Place]  # where each given key stands, dotted within dicts
    hosts: tuple[Host, ...]  # of a launcher for many machines


def read_config(
    paths: Iterable[str | Path],
    conf_dir: str | Path | None = None,
    overrides: Iterable[str] = (),
    script: str = "train.py",
    dry_run: bool = False,
) -> Resolved:
    """The configuration of a run of script; raises `ConfigError` with every mistake."""
    raw = load(paths, conf_dir, overrides)
    return resolved(raw, Surroundings(script, dry_run, cuda_devices()))


def config_from_values(values: Mapping[str, Any], script: str = "train.py") -> Config:
    """The configuration of a mapping of keys, resolved as on a machine without files and GPUs."""
    raw = load_text(yaml.safe_dump(dict(values)), "values")
    return resolved(raw, Surroundings(script, dry_run=True)).config


def resolved(raw: RawConfig, around: Surroundings) -> Resolved:
    """Type, resolve and check what was loaded; only its own mistakes are told where a file could not be read."""
    draft = typed(raw)
    if not raw.whole:
        raise ConfigError(in_reading_order(draft.complaints))
    written = draft.config
    resolve(draft, around)
    draft.check(RULES)
    draft.check(TRAINING_RULES if around.trains else GENERATION_RULES if around.generates else [])
    mistakes = list(draft.complaints)
    draft.check(TRAINING_WARNINGS if around.trains else [])
    warnings, draft.complaints = draft.complaints[len(mistakes) :], mistakes
    draft.notes += [str(warning) for warning in warnings]
    look_around(draft, around)
    if draft.complaints:
        raise ConfigError(in_reading_order(draft.complaints))
    return Resolved(draft.config, tuple(draft.notes), written, draft.places, tuple(draft.hosts))
