"""What the documents tell users to type: its scripts, options, files and keys are there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from neox.config.draft import SECTION_OF

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "tools").glob("*.py")),
    ROOT / "deepy.py",
]
COMMAND = re.compile(r"^    ((?:python|sbatch) (?:.*\\\n)*.*)$", re.MULTILINE)


def commands(path: Path) -> list[list[str]]:
    """The commands in a document or in the docstring of a script, as words."""
    texts = (match[1].replace("\\\\\n", " ").replace("\\\n", " ") for match in COMMAND.finditer(path.read_text()))
    return [shlex.split(text, comments=True) for text in texts if "python -c" not in text and "--wrap" not in text]


@pytest.mark.parametrize("path", [path for path in SOURCES if commands(path)], ids=lambda path: path.name)
def test_what_is_typed_exists(path: Path) -> None:
    for program, script, *words in commands(path):
        command = f"{program} {script} {' '.join(words)}"
        assert (ROOT / script).is_file() or program == "sbatch", command
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if program == "python":
            sources = [ROOT / script, *ROOT.glob("neox/launch/*.py" if script == "deepy.py" else "tools/scaling/*.py")]
            known = "".join(source.read_text() for source in sources)
            assert not [option for option in options if f'"{option}"' not in known], command
        for word in [script, *words]:
            if word.startswith(("configs/", "docs/")):
                assert [*ROOT.glob(word)], f"{word} in {command}"
        keys = re.findall(r"(?<= )(\w+)(?:\.\w+)*=", " " + command.partition(" --set ")[2])
        assert not [key for key in keys if key not in SECTION_OF], command
