"""The training loop: step, report, evaluate, save, stop, in the order in which they happen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from neox.checkpoint.publish import Progress
from neox.config.sections import CheckpointConfig, Config
from neox.config.shapes import tokens_per_sample
from neox.data.batches import Batch
from neox.monitor.metrics import Throughput, memory_metrics, training_metrics
from neox.monitor.reporters import Reporters
from neox.training.engine import Engine, StepResult
from neox.training.guard import Guard, NonFiniteLoss, unusable
from neox.training.profile import Profile
from neox.training.schedule import learning_rate
from neox.training.signals import Signals
from neox.training.watchdog import Watchdog


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    progress: Progress
    interrupted: bool  # by a signal, before train_iters
    saved: bool  # the last iteration is in a checkpoint


def train(
    config: Config,
    *,
    engine: Engine,
    batches: Iterator[Batch],
    evaluate: Callable[[], dict[str, float]] | None,
    save: Callable[[Progress], None] | None,
    guard: Guard | None,
    rollback: Callable[[], Progress],
    progress: Progress,
    reporters: Reporters,
    throughput: Throughput,
    profile: Profile | None,
    signals: Signals,
    watchdog: Watchdog,
) -> Outcome:
    """Train until `train_iters`, or until a signal or `exit_interval` ends the run before.

    `evaluate` gives the metrics of a validation, `save` publishes a checkpoint, `guard` judges every step before its update; each is None
    where the run has none. `rollback` restores the newest checkpoint, `profile` records steps. `signals` may ask for a checkpoint, or for the end after
    one. Raises NonFiniteLoss. Every rank calls this.
    """
    last = config.batch.train_iters
    saved_at = progress.iteration  # what was resumed is saved, and so is a run that has not begun
    if save and progress.iteration == 0 and 0 in config.checkpoint.extra_save_iters:
        save(progress)
    interrupted = signals.agreed().stop
    leaving = interrupted
    throughput.take()  # the time up to here is not training

    while progress.iteration < last and not leaving:
        watchdog.heard()
        if profile:
            with throughput.paused():
                profile.before(progress.iteration + 1)
        rate = learning_rate(config.optimization, progress.iteration)
        result = engine.train_step(batches, rate, guard.admits if guard else None)
        progress = advance(progress, config)
        throughput.step()

        step = progress.iteration
        remedy = guard.remedy(step, config.checkpoint.save) if guard else None
        if remedy == "rollback":
            # the state of then, and the data after those that did it
            watchdog.heard()
            progress = replace(rollback(), consumed_samples=progress.consumed_samples, rollbacks=progress.rollbacks + 1)
            guard.usual_loss = progress.usual_loss
            saved_at = progress.iteration
            continue
        skipped = progress.skipped_steps + (result.skipped or remedy == "skip")
        progress = replace(progress, skipped_steps=skipped, usual_loss=guard.usual_loss if guard else None)

        asked = signals.agreed()
        interrupted = asked.stop
        leaving = interrupted or due(step, config.run.exit_interval)
        logging = due(step, config.monitor.log_interval) or step == last
        evaluating = evaluate is not None and (due(step, config.evaluation.eval_interval) or step == last)
        saving = save is not None and (save_due(step, config.checkpoint) or asked.save or leaving or step == last)

        # asking for the loss makes the host wait for the device, so only the steps that need it ask
        metrics = {}
        if guard is None and (logging or evaluating or saving or engine.synchronous):
            check_finite(result, step, config.checkpoint.save)
        if logging:
            metrics |= step_metrics(result, rate, progress) | throughput.take() | engine.timers.take()
            metrics |= memory_metrics(engine.device)
        if evaluating:
            watchdog.heard()
            with throughput.paused():
                metrics |= evaluate()
        if metrics:
            reporters.report(step, metrics)
        if saving:
            watchdog.heard()
            with throughput.paused():
                save(progress)
            saved_at = step
            if guard:
                guard.saved()
    if profile:
        profile.end(progress.iteration + 1)
    return Outcome(progress, interrupted and progress.iteration < last, saved_at == progress.iteration)


def advance(progress: Progress, config: Config) -> Progress:
    """The progress after one more optimizer step."""
    samples = config.batch.train_batch_size
    return replace(
        progress,
        iteration=progress.iteration + 1,
        consumed_samples=progress.consumed_samples + samples,
        consumed_tokens=progress.consumed_tokens + samples * tokens_per_sample(config.model),
    )


def due(step: int, interval: int | None) -> bool:
    """Whether something that happens every `interval` steps happens at this one; None means never."""
    return interval is not None and step % interval == 0


def save_due(step: int, config: CheckpointConfig) -> bool:
    """Whether the step is one of the regular or extra ones to save at."""
    return due(step, config.checkpoint_factor) or step in config.extra_save_iters


def step_metrics(result: StepResult, rate: float, progress: Progress) -> dict[str, float]:
    """The `train/*` metrics of a step; reading its loss waits for the device."""
    return training_metrics(
        lm_loss=float(result.loss),
        measures={name: float(value) for name, value in result.measures.items()},
        learning_rate=rate,
        grad_norm=None if result.skipped else float(result.grad_norm),
        loss_scale=result.loss_scale,
        consumed_tokens=progress.consumed_tokens,
    ) | {"train/skipped_steps": progress.skipped_steps, "train/rollbacks": progress.rollbacks}


def check_finite(result: StepResult, step: int, save: str | None) -> None:
    """Raise NonFiniteLoss where the step gave no usable number; an fp16 overflow that was skipped is none of them."""
    if result.skipped and result.loss_scale is not None:
        return
    # in the other formats DeepSpeed leaves updates out for this reason alone
    what = unusable(float(result.loss), math.inf if result.skipped else float(result.grad_norm))
    if what is not None:
        raise NonFiniteLoss(step, what, save)
