"""A launcher and training stack for GPTs.

Whatever is run here imports this first. An interpreter that cannot go on, because it is too old or is not the one that the packages
were installed for, is told in a line, with exit code 2.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

OLDEST_PYTHON = (3, 11)
# what every program here needs; the rest of requirements.txt comes with them
PACKAGES = ("argcomplete", "pydantic", "rich", "yaml")


def _lack():
    """What this interpreter lacks, None where it lacks nothing. (No annotation: an old Python reads this too.)"""
    if sys.version_info < OLDEST_PYTHON:
        found = "{}.{}".format(*sys.version_info[:2])
        return f"{sys.executable} is Python {found}, and {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed"
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if not missing:
        return None
    environment = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "activate"
    mend = (
        f"run `. {environment}` first"
        if environment.is_file()
        else "`make quickstart` makes an environment with them in .venv, or: python -m pip install -r requirements.txt"
    )
    return f"{sys.executable} has no {', '.join(missing)}: {mend}"


lack = _lack()
if lack is not None:
    print(f"error: {lack}", file=sys.stderr)
    raise SystemExit(2)
