"""What a user's mistake is raised as. Knows nothing about files or keys: the complaints are finished sentences."""

from __future__ import annotations

from collections.abc import Iterable


class ConfigError(ValueError):
    """What the user wrote is wrong; `complaints` holds every mistake that was found, one line each."""

    def __init__(self, complaints: str | Iterable[str]) -> None:
        self.complaints = [complaints] if isinstance(complaints, str) else list(complaints)
        super().__init__("\n".join(self.complaints))
