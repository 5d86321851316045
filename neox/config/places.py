"""Where a value stands, and complaints that point there.

Knows nothing about which keys exist.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Place:
    """A spot in a file (counted from 1), a whole file (line 0), or an argument of `--set`."""

    order: int  # of the file or argument among all that were given
    line: int = 0
    column: int = 0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.source}:{self.line}:{self.column}" if self.line else self.source


@dataclass(frozen=True)
class Complaint:
    """One mistake: where, which key (dotted within dicts; empty where it is about a file), and the sentence."""

    place: Place | None
    key: str
    sentence: str

    def __str__(self) -> str:
        text = ": ".join(str(part) for part in (self.place, self.key, self.sentence) if part)
        # One line, whatever the user wrote, and nothing that a terminal would take for an order.
        return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def in_reading_order(complaints: list[Complaint]) -> list[str]:
    """The complaints as lines: by file and line, those without a place last; each said once."""
    last = Place(order=2**31)
    ordered = sorted(complaints, key=lambda complaint: complaint.place or last)
    return list(dict.fromkeys(str(complaint) for complaint in ordered))
