"""What a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Complaints = Iterator[
    tuple[str, str]
]  # keys, separated by spaces, and a sentence about the first one that the user wrote
Rule = Callable[[Any], Complaints]  # of the resolved configuration
