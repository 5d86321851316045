"""The rules between keys: each is a function of the resolved configuration that yields complaints.

A complaint is (keys, sentence): the keys are separated by spaces, and it points at the first one that the user wrote. A rule stops,
alone, where it reads a key that is broken. Knows nothing about files and machines.
"""

from __future__ import annotations

from neox.config.rules import architecture, data, layout, run

RULES = [*architecture.RULES, *layout.RULES, *data.RULES, *run.RULES]
TRAINING_RULES = [*data.TRAINING_RULES, *run.TRAINING_RULES]
TRAINING_WARNINGS = [*architecture.TRAINING_WARNINGS, *run.TRAINING_WARNINGS]
GENERATION_RULES = run.GENERATION_RULES
