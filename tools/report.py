"""Draw the loss of a run from its metrics.jsonl, and say in one line how far it fell.

python tools/report.py logs/shakespeare
python tools/report.py logs/shakespeare --output loss.svg --title "19M on Shakespeare"
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
import matplotlib

matplotlib.use("Agg")  # a login node has no screen

from matplotlib import pyplot
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from neox.monitor.jsonl import read_metrics

TRAINING, VALIDATION = "train/lm_loss", "validation/lm_loss"
TRAINING_COLOUR, VALIDATION_COLOUR, INK, GRID = "#3b6ea8", "#d1602b", "#2b2f36", "#dfe3e8"

Curve = list[tuple[int, float]]


def main(argv: Sequence[str]) -> int:
    """Run the tool with these arguments; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        metrics = read_metrics(arguments.folder)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    training, validation = curve(metrics, TRAINING), curve(metrics, VALIDATION)
    if not training and not validation:
        print(f"{arguments.folder}: no loss was logged yet", file=sys.stderr)
        return 2
    folder = arguments.folder if arguments.folder.is_dir() else arguments.folder.parent
    output = arguments.output or folder / "loss.png"
    try:
        draw(training, validation, output, arguments.title)
    except (OSError, ValueError) as error:  # ValueError: a format that matplotlib does not know
        print(f"cannot write {output}: {error}", file=sys.stderr)
        return 2
    for name, points in (("training loss", training), ("validation loss", validation)):
        if points:
            print(describe(name, points))
    print(f"plot: {output}")
    return 0


def curve(metrics: dict[int, dict[str, float | None]], name: str) -> Curve:
    """(iteration, value) of every iteration at which the metric is a finite number."""
    points = ((iteration, record.get(name)) for iteration, record in metrics.items())
    return [(iteration, value) for iteration, value in points if value is not None and math.isfinite(value)]


def describe(name: str, points: Curve) -> str:
    """First and last value, and the change in percent."""
    (start, first), (end, last) = points[0], points[-1]
    text = f"{name}: {first:.4f} at iteration {start:,}, {last:.4f} at iteration {end:,}"
    if first == 0 or start == end:
        return text
    change = (last - first) / first
    return f"{text} ({'down' if change <= 0 else 'up'} {abs(change):.1%})"


def draw(training: Curve, validation: Curve, output: Path, title: str | None) -> None:
    """Write the plot in the format of the output's suffix."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), dpi=160, layout="constrained")
    raised = apart(training, validation)
    for points, colour, label, width, marker, rise in (
        (training, TRAINING_COLOUR, "training", 1.4, None, -raised),
        (validation, VALIDATION_COLOUR, "validation", 1.8, "o", raised),
    ):
        if points:
            # a single point has no line to show
            marker = marker or ("o" if len(points) == 1 else None)
            axes.plot(*zip(*points), color=colour, label=label, linewidth=width, marker=marker, markersize=4)
            axes.annotate(
                f"{points[-1][1]:.3f}",
                points[-1],
                xytext=(7, rise),
                textcoords="offset points",
                va="center",
                color=colour,
                fontsize=9,
                annotation_clip=False,
            )
    axes.set_xlabel("iteration", color=INK)
    axes.set_ylabel("loss (nats per token)", color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK, length=0)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.legend(frameon=False, labelcolor=INK)
    if title:
        axes.set_title(title, color=INK, loc="left", fontweight="bold")
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output)
    pyplot.close(figure)


def apart(training: Curve, validation: Curve) -> float:
    """Points by which the last value of validation is written higher, and that of training lower, not to overlap."""
    if not training or not validation:
        return 0
    values = [value for _, value in training + validation]
    gap = validation[-1][1] - training[-1][1]
    if abs(gap) > 0.06 * (max(values) - min(values)):
        return 0
    return 6 if gap >= 0 else -6


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Draw the loss of a run from its metrics.jsonl.")
    parser.add_argument("folder", metavar="LOG_DIR", type=Path, help="log_dir of the run, or a metrics.jsonl")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="picture to write (.png, .svg, .pdf): LOG_DIR/loss.png"
    )
    parser.add_argument("--title", help="title of the plot")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
