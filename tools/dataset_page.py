"""What was found in token files as one HTML page that needs nothing else. Knows nothing about how it was found."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a login node has no screen

from matplotlib import pyplot
from matplotlib.ticker import PercentFormatter, StrMethodFormatter

from tools.dataset_look import Blend, Look

FIRST, SECOND, INK, GRID = "#3b6ea8", "#d1602b", "#2b2f36", "#dfe3e8"
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #2b2f36; max-width: 60em; margin: 2em auto; padding: 0 1em }
h1, h2 { font-weight: 600; overflow-wrap: anywhere } h2 { margin-top: 2em; border-top: 1px solid #dfe3e8; padding-top: 1em }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .9em .25em 0; text-align: right }
td:first-child, th:first-child { text-align: left; overflow-wrap: anywhere } th { border-bottom: 1px solid #dfe3e8 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f6f7f9; padding: 1em; max-height: 32em; overflow-y: auto }
pre b { color: #fff; background: #d1602b; padding: 0 .4em; border-radius: .2em; font-weight: 600 }
pre .odd { background: #e6edf5 } svg { max-width: 100%; height: auto }
"""


def page(looks: list[Look], blend: Blend | None) -> str:
    """The page."""
    parts = ["<h1>Token files</h1>"]
    if blend is not None:
        parts += [f"<h2>{escape(blend.title.capitalize())}</h2>", _blend_plot(blend)]
        rows = [(row.prefix, f"{row.share:.3%}", f"{row.drawn:.3%}", f"{row.times:.3g}") for row in blend.rows]
        parts.append(_table(("store", "asked for", "drawn", "times read"), rows))
    for look in looks:
        parts += _section(look)
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Token files</title><style>{STYLE}</style>\n{body}\n</html>\n'


def _section(look: Look) -> list[str]:
    name, _, facts = look.headline.partition(": ")
    parts = [f"<h2>{escape(name)}</h2>", f"<p>{escape(facts)}</p>"]
    if look.found.manifest is None:
        parts.append("<p>No manifest: sources, tokenizer and subsets are not known.</p>")
    else:
        parts.append(f"<p>{'<br>'.join(map(escape, look.origin))}</p>")
    if look.checked:
        parts.append("<p>Every byte is as the manifest says.</p>")
    parts.append(_bars("length of documents, in tokens", look.lengths))
    if look.found.manifest is not None:
        tokens = look.found.facts.tokens
        parts.append(_subsets_plot(look.subsets, tokens))
        rows = [
            (
                name,
                f"{share['documents']:,}",
                f"{share['tokens']:,}",
                f"{share['tokens'] / tokens:.1%}",
                f"{share['text_bytes'] / share['tokens']:.2f}",
            )
            for name, share in look.subsets
        ]
        parts.append(_table(("subset", "documents", "tokens", "share", "bytes a token"), rows))
    parts += [f"<h3>{escape(text.title)}</h3><pre>{text.html}</pre>" for text in look.texts]
    return parts


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [("th", heads), *(("td", row) for row in rows)]
    return "<table>" + "".join(
        f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>" for tag, cells in lines
    ) + "</table>"  # fmt: skip


def _bars(title: str, rows: list[tuple[str, int]]) -> str:
    figure, axes = _axes(title, 3.2)
    bars = axes.bar([name for name, _ in rows], [count for _, count in rows], color=FIRST, width=0.9)
    axes.bar_label(bars, [f"{count:,}" for _, count in rows], fontsize=8, color=INK, padding=2)
    axes.tick_params(axis="x", rotation=30)
    pyplot.setp(axes.get_xticklabels(), ha="right", rotation_mode="anchor")
    axes.set_ylabel("documents", color=INK)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    return _svg(figure)


def _subsets_plot(subsets: list[tuple[str, dict[str, Any]]], tokens: int) -> str:
    figure, axes = _axes("share of the tokens, and bytes a token", 0.9 + 0.32 * len(subsets))
    shares = [share["tokens"] / tokens for _, share in subsets]
    bars = axes.barh([_plain(name) for name, _ in subsets], shares, color=FIRST)
    labels = [f"{part:.1%}, {one['text_bytes'] / one['tokens']:.2f} B" for part, (_, one) in zip(shares, subsets)]
    axes.bar_label(bars, labels, fontsize=8, color=INK, padding=3)
    _sideways(axes)
    return _svg(figure)


def _blend_plot(blend: Blend) -> str:
    figure, axes = _axes("share of the samples", 1.1 + 0.5 * len(blend.rows))
    places = range(len(blend.rows))
    for shift, colour, label, values in (
        (-0.2, FIRST, "asked for", [row.share for row in blend.rows]),
        (0.2, SECOND, "drawn", [row.drawn for row in blend.rows]),
    ):
        bars = axes.barh([place + shift for place in places], values, 0.38, color=colour, label=label)
        axes.bar_label(bars, [f"{value:.2%}" for value in values], fontsize=8, color=INK, padding=3)
    axes.set_yticks(list(places), [_plain(row.prefix) for row in blend.rows])
    axes.legend(frameon=False, labelcolor=INK, fontsize=8, loc="lower left", bbox_to_anchor=(0.75, 1.0), ncols=2)
    _sideways(axes)
    return _svg(figure)


def _axes(title: str, height: float):
    figure, axes = pyplot.subplots(figsize=(8, height), layout="constrained")
    axes.set_title(title, color=INK, loc="left", fontsize=10)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.set_axisbelow(True)
    return figure, axes


def _sideways(axes) -> None:
    axes.invert_yaxis()  # the first on top
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.margins(x=0.2)
    axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= 1])


def _svg(figure) -> str:
    """The picture as a part of the page."""
    content = io.StringIO()
    figure.savefig(content, format="svg")
    pyplot.close(figure)
    return content.getvalue().partition("<svg")[1] + content.getvalue().partition("<svg")[2]


def _plain(name: str) -> str:
    """A name that matplotlib does not take for a formula."""
    return name.replace("$", r"\$")
