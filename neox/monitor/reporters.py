"""Hand the metrics of an iteration to every reporter. Knows nothing about what is measured or when a line is due."""

from __future__ import annotations

import os
from typing import Any, Protocol

from neox.config.errors import ConfigError
from neox.config.sections import MonitorConfig
from neox.monitor.console import console_reporter
from neox.monitor.jsonl import JsonLines


class Reporter(Protocol):
    """Something that metrics are sent to."""

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Take all that was measured at one iteration: called once for an iteration, and iterations rise."""

    def close(self) -> None:
        """End the record."""


class Reporters:
    """All reporters of a process as one; a process that does not report has none.

    wandb_run_id: the Weights & Biases run in use, which a checkpoint keeps.
    """

    def __init__(self, reporters: list[Reporter], wandb_run_id: str | None) -> None:
        self._reporters = reporters
        self.wandb_run_id = wandb_run_id

    def report(self, iteration: int, metrics: dict[str, float]) -> None:
        """Send the metrics of one iteration to each."""
        for reporter in self._reporters:
            reporter.report(iteration, metrics)

    def close(self) -> None:
        """Close each; Weights & Biases takes the run for failed where an exception is on its way."""
        for reporter in self._reporters:
            reporter.close()


def build_reporters(
    monitor: MonitorConfig,
    config_dict: dict[str, Any],
    total_iterations: int,
    is_main: bool,
    wandb_run_id: str | None,
) -> Reporters:
    """The reporters that the configuration asks for, on the main process; none elsewhere.

    `config_dict` is the resolved configuration with flat keys, for Weights & Biases; `wandb_run_id` is the id from a
    checkpoint, whose run is continued, and `Reporters.wandb_run_id` is the one in use. Raises ConfigError where the
    package of a reporter is not installed.
    """
    if not is_main:
        return Reporters([], wandb_run_id)
    # the console is closed first, so that what the others say then stands below the progress line
    reporters: list[Reporter] = [console_reporter(total_iterations)]
    if monitor.log_dir is not None:
        reporters.append(JsonLines(monitor.log_dir))
    if monitor.tensorboard_dir is not None:
        reporters.append(_tensorboard(monitor.tensorboard_dir))
    # WANDB_MODE=disabled is wandb's own switch, which a cluster's users know
    if monitor.use_wandb and (monitor.wandb_mode or os.environ.get("WANDB_MODE")) != "disabled":
        tracker = _weights_and_biases(monitor, config_dict, wandb_run_id)
        wandb_run_id = tracker.run_id
        reporters.append(tracker)
    return Reporters(reporters, wandb_run_id)


def _tensorboard(folder: str) -> Reporter:
    try:
        from neox.monitor.tensorboard import TensorBoard  # noqa: PLC0415 - an optional package
    except ImportError as error:
        raise ConfigError("tensorboard_dir needs the package tensorboard: pip install tensorboard") from error
    return TensorBoard(folder)


def _weights_and_biases(monitor: MonitorConfig, config_dict: dict[str, Any], run_id: str | None) -> Reporter:
    try:
        from neox.monitor.weights_and_biases import WeightsAndBiases  # noqa: PLC0415 - a second to import
    except ImportError as error:
        raise ConfigError("use_wandb needs the package wandb: pip install wandb") from error
    return WeightsAndBiases(monitor, config_dict, run_id)
