"""Count what a curation removed and changed, by stage, reason and subset, and tell it. Knows nothing about stages but their names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tools.curation.redaction import redact

EXAMPLES = 3  # of each reason
EXAMPLE_LENGTH = 160  # characters


@dataclass
class Flow:
    """Documents and bytes of text (UTF-8) that go into a stage and come out of it."""

    documents_in: int = 0
    bytes_in: int = 0
    documents_out: int = 0
    bytes_out: int = 0

    def add(self, other: Flow) -> None:
        """Count the other in."""
        self.documents_in += other.documents_in
        self.bytes_in += other.bytes_in
        self.documents_out += other.documents_out
        self.bytes_out += other.bytes_out


@dataclass
class StageReport:
    """What one stage did: by subset (`meta.pile_set_name`, or ""), how often for which reason, and the first examples of each."""

    subsets: dict[str, Flow] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def total(self) -> Flow:
        """All subsets together."""
        total = Flow()
        for flow in self.subsets.values():
            total.add(flow)
        return total

    def count(
        self, subset: str, before: str, after: str | None, reasons: dict[str, int], place: str, shown: str
    ) -> None:
        """Count one text. `shown` is the piece of it that examples show, at its `place`."""
        flow = Flow(1, _size(before), *(0, 0) if after is None else (1, _size(after)))
        self.subsets.setdefault(subset, Flow()).add(flow)
        for reason, number in reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + number
            examples = self.examples.setdefault(reason, [])
            if len(examples) < EXAMPLES:
                examples.append(f"{place}: {_excerpt(shown or after or before, f'[{reason}]')}")

    def add(self, other: StageReport) -> None:
        """Count in what came later."""
        for subset, flow in other.subsets.items():
            self.subsets.setdefault(subset, Flow()).add(flow)
        for reason, number in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + number
        for reason, examples in other.examples.items():
            known = self.examples.setdefault(reason, [])
            known += examples[: EXAMPLES - len(known)]

    @classmethod
    def restored(cls, values: dict[str, Any]) -> StageReport:
        """What `asdict` took apart; an empty report where it took nothing."""
        return cls(**values | {"subsets": {name: Flow(**flow) for name, flow in values.get("subsets", {}).items()}})


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _excerpt(text: str, placeholder: str) -> str:
    """The beginning of a text, or what is around the placeholder, in one line; nobody's data is in it in clear."""
    begin = max(0, text.find(placeholder) - EXAMPLE_LENGTH // 2)
    # what is cut through is not recognized: look around the excerpt, too
    around = redact(text[max(0, begin - 500) : begin + EXAMPLE_LENGTH + 500]).text
    begin = max(0, around.find(placeholder) - EXAMPLE_LENGTH // 2) if placeholder in around else min(begin, 500)
    return " ".join(around[begin : begin + EXAMPLE_LENGTH].split())


def summary(stages: dict[str, StageReport]) -> list[str]:
    """A line for each stage, and one for all."""
    lines = []
    for name, stage in stages.items():
        flow = stage.total()
        line = f"{name:14}{flow.documents_in:>12,} documents in, {flow.documents_in - flow.documents_out:,} removed"
        cut = flow.bytes_in - flow.bytes_out
        lines.append(f"{line}; {cut / 1e6:,.2f} of {flow.bytes_in / 1e6:,.2f} MB less")
    return lines


def markdown(stages: dict[str, StageReport], facts: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["# What curation did", ""]
    lines += [f"- {name}: {value}" for name, value in facts.items()]
    lines += ["", "| stage | documents in | removed | out | MB in | MB out |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {_cells(stage.total())} |" for name, stage in stages.items()]
    for name, stage in stages.items():
        lines += ["", f"## {name}", ""]
        if len(stage.subsets) > 1:
            lines += ["| subset | documents in | removed | out | MB in | MB out |", "|---|---|---|---|---|---|"]
            lines += [
                f"| {_escaped(subset) or '(none)'} | {_cells(flow)} |" for subset, flow in sorted(stage.subsets.items())
            ]
            lines.append("")
        for reason, number in sorted(stage.reasons.items(), key=lambda item: (-item[1], item[0])):
            lines.append(f"- **{_escaped(reason)}**: {number:,}")
            lines += [f"    - {_escaped(example)}" for example in stage.examples.get(reason, [])]
        if not stage.reasons:
            lines.append("Nothing.")
    return "\n".join(lines) + "\n"


def _cells(flow: Flow) -> str:
    removed = flow.documents_in - flow.documents_out
    return f"{flow.documents_in:,} | {removed:,} | {flow.documents_out:,} | {flow.bytes_in / 1e6:,.2f} | {flow.bytes_out / 1e6:,.2f}"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    for character in "\\`*_<>|[]#":
        text = text.replace(character, f"\\{character}")
    return text
