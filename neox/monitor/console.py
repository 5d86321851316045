"""Metrics for a person: a live progress line on a terminal, one plain line per report otherwise."""

from __future__ import annotations

from datetime import timedelta

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# name in the metrics, and how a line shows it; what was not measured is left out
PARTS = (
    ("train/lm_loss", "loss {:.4f}"),
    ("train/reward_margin", "reward margin {:.3f}"),
    ("train/reward_accuracy", "accuracy {:.1%}"),
    ("train/learning_rate", "lr {:.2e}"),
    ("train/grad_norm", "grad norm {:.3f}"),
    ("train/loss_scale", "loss scale {:.0f}"),
    ("runtime/tokens_per_sec", "{:,.0f} tokens/s"),
    ("runtime/iteration_time", "{:.3g} s/it"),
    ("runtime/model_flops_utilization", "MFU {:.1%}"),
    ("validation/lm_loss", "validation loss {:.4f}"),
    ("validation/lm_loss_ppl", "perplexity {:.2f}"),
    ("validation/reward_accuracy", "accuracy {:.1%}"),
)
PROGRESS_PARTS = ("train/lm_loss", "runtime/tokens_per_sec", "runtime/model_flops_utilization")


def describe(metrics: dict[str, float], names: tuple[str, ...] | None = None) -> str:
    """Metrics in words, separated by bars: all that have words, or those of `names`."""
    return " | ".join(
        words.format(metrics[name]) for name, words in PARTS if name in metrics and (names is None or name in names)
    )


def time_left(steps: int, metrics: dict[str, float]) -> str:
    """Time that `steps` more take at the measured rate, as 1:02:03; empty where no rate was measured."""
    if "runtime/iteration_time" not in metrics:
        return ""
    return str(timedelta(seconds=round(steps * metrics["runtime/iteration_time"])))


class PlainLines:
    """One line per report, for log files and pipes."""

    def __init__(self, total_iterations: int) -> None:
        self._total = total_iterations

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Print `iteration 100/2000 | loss 3.2100 | ... | ETA 0:03:12`."""
        line = f"iteration {iteration}/{self._total} | {describe(metrics)}"
        if left := time_left(self._total - iteration, metrics):
            line += f" | ETA {left}"
        print(line, flush=True)

    def close(self) -> None:
        """Nothing to close."""


class ProgressLine:
    """A bar that stays at the bottom of a terminal; evaluations are printed above it."""

    def __init__(self, total_iterations: int, console: RichConsole | None = None) -> None:
        self._total = total_iterations
        self._progress = Progress(
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console or RichConsole(),
            refresh_per_second=4,
        )
        self._task = self._progress.add_task("", total=total_iterations, words="", left="")

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Move the bar, and print a line above it where there was an evaluation."""
        # started here and not before: until the first step other parts still print what they set up
        self._progress.start()
        if "validation/lm_loss" in metrics:
            validation = {name: value for name, value in metrics.items() if name.startswith("validation/")}
            self._progress.console.print(
                f"iteration {iteration}/{self._total} | {describe(validation)}", highlight=False
            )
        self._progress.update(self._task, completed=iteration)
        if words := describe(metrics, PROGRESS_PARTS):
            self._progress.update(self._task, words=words)
        if left := time_left(self._total - iteration, metrics):
            self._progress.update(self._task, left=f"ETA {left}")

    def close(self) -> None:
        """Leave the line as it stands and give the terminal back."""
        self._progress.stop()


def console_reporter(total_iterations: int) -> ProgressLine | PlainLines:
    """The reporter that suits standard output."""
    return ProgressLine(total_iterations) if RichConsole().is_terminal else PlainLines(total_iterations)
