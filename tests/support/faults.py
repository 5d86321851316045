"""Which test covers which fault: a test's docstring says `FAULTS 6 and 7`, and docs/reliability.md lists it in those rows.

python tests/support/faults.py        # writes the last column of the table anew
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "reliability.md"
NUMBERS = re.compile(r"FAULTS (\d+(?:(?:, | and )\d+)*)")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|[^|]*\|$", re.MULTILINE)


def covering_tests() -> dict[int, list[str]]:
    """`file.py::test` of every test that names a fault, by the fault's number."""
    covered: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").glob("*/test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                for found in NUMBERS.findall(ast.get_docstring(node) or ""):
                    for number in map(int, re.findall(r"\d+", found)):
                        covered.setdefault(number, []).append(f"{path.name}::{node.name}")
    return covered


def written(text: str) -> str:
    """The document with the tests of today in its table."""
    covered = covering_tests()

    def row(match: re.Match) -> str:
        tests = "<br>".join(f"`{name}`" for name in covered.get(int(match[1]), []))
        return f"| {match[1]} | {match[2]} | {match[3]} | {tests} |"

    return ROW.sub(row, text)


if __name__ == "__main__":
    TABLE.write_text(written(TABLE.read_text()))
