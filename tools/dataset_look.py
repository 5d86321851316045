"""What was found in token files, in words. Knows nothing about how it was found."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from neox.data.inspection import Drawn, Inspection, Piece


@dataclass(frozen=True)
class Text:
    """A decoded text, or the pieces of a sample."""

    title: str
    content: str | list[Piece]

    @property
    def plain(self) -> str:
        """As letters: `[[document N]]` stands where one begins, `[[...]]` where the sample begins within one."""
        if isinstance(self.content, str):
            return self.content
        return "".join(f"[[{_mark(piece)}]]{piece.text}" for piece in self.content)

    @property
    def html(self) -> str:
        """As HTML, the documents of a sample on two grounds in turn."""
        if isinstance(self.content, str):
            return escape(self.content)
        return "".join(
            f'<span class="{"odd" if piece.document % 2 else "even"}"><b>{_mark(piece)}</b>{escape(piece.text)}</span>'
            for piece in self.content
        )


def _mark(piece: Piece) -> str:
    return f"document {piece.document:,}" if piece.begins else "..."


@dataclass(frozen=True)
class Look:
    """One pair of token files."""

    prefix: str
    found: Inspection
    checked: bool
    texts: list[Text]

    @property
    def headline(self) -> str:
        """The counts in a sentence."""
        facts = self.found.facts
        return (
            f"{self.prefix}: {facts.documents:,} documents, {facts.tokens:,} tokens ({facts.dtype.name}), "
            f"{self.found.shortest:,} to {self.found.longest:,} tokens long, {facts.tokens / facts.sequences:,.1f} on average"
        )

    @property
    def lengths(self) -> list[tuple[str, int]]:
        """Documents by length: the range in tokens, and how many."""
        histogram = self.found.histogram
        used = [index for index, count in enumerate(histogram) if count]
        rows = [(f"{2**n:,} - {2 ** (n + 1) - 1:,}", int(histogram[n])) for n in range(used[0], used[-1] + 1)]
        return [("0", self.found.empty), *rows] if self.found.empty else rows

    @property
    def origin(self) -> list[str]:
        """Tokenizer and sources by the manifest."""
        tokenizer, sources = self.found.manifest["tokenizer"], self.found.manifest["sources"]
        return [
            f"tokenizer {tokenizer['type']}, {tokenizer['vocab_size']:,} ids, eod {tokenizer['eod']}",
            f"from {sources[0]['path']}" + (f" and {len(sources) - 1:,} more" if len(sources) > 1 else ""),
        ]

    @property
    def subsets(self) -> list[tuple[str, dict[str, int]]]:
        """The subsets by the manifest, that with the most tokens first."""
        known = sorted(self.found.manifest["subsets"].items(), key=lambda item: -item[1]["tokens"])
        return [(name or "(no name)", share) for name, share in known]


@dataclass(frozen=True)
class Blend:
    """The mixture of a run, as its first samples are drawn."""

    samples: int
    seq_length: int
    rows: list[Drawn]

    @property
    def title(self) -> str:
        """What the numbers are about."""
        return f"the mixture, over the first {self.samples:,} samples of {self.seq_length:,} tokens"
