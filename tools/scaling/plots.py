"""The plot of a coordinate check: a row for each parametrisation, a column for each kind of activation, a line for each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # a login node has no screen

from matplotlib import pyplot
from matplotlib.axes import Axes

INK, GRID = "#2b2f36", "#dfe3e8"


def draw_coordinates(
    table: Mapping[str, Mapping[int, Sequence[Mapping[str, float]]]], kinds: Sequence[str], output: Path
) -> None:
    """Write the plot; table: by parametrisation and width, step by step, the size of each kind."""
    figure, rows = pyplot.subplots(
        len(table),
        len(kinds),
        figsize=(2.6 * len(kinds), 2.6 * len(table)),
        dpi=160,
        layout="constrained",
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axes_row, (name, by_width) in zip(rows, table.items()):
        widths, steps = list(by_width), len(next(iter(by_width.values())))
        for axes, kind in zip(axes_row, kinds):
            for step in range(steps):
                colour = pyplot.colormaps["viridis"](step / max(1, steps - 1) * 0.9)
                sizes = [by_width[width][step][kind] for width in widths]
                axes.plot(widths, sizes, color=colour, marker="o", markersize=3, linewidth=1.4, label=str(step))
            _style(axes, widths)
        axes_row[0].set_ylabel(f"{name}\nmean |activation|", color=INK)
    for axes, kind in zip(rows[0], kinds):
        axes.set_title(kind, color=INK, fontsize=10, fontweight="bold")
    for axes in rows[-1]:
        axes.set_xlabel("hidden_size", color=INK)
    lines, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(lines, labels, title="updates", loc="outside right upper", frameon=False, labelcolor=INK)
    figure.savefig(output)
    pyplot.close(figure)


def _style(axes: Axes, widths: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
