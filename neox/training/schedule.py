"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from neox.config.sections import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int) -> float:
    """Learning rate of optimizer step `step`, counted from 0.

    Linear warmup over `warmup * lr_decay_iters` steps, then the chosen decay towards `min_lr`, which holds from step
    `lr_decay_iters` on; resolve() fills that. The first step already learns, and so does the last.
    """
    decay_steps = config.lr_decay_iters
    warmup_steps = math.floor(config.warmup * decay_steps)
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, decay_steps - warmup_steps))
    return config.min_lr + (config.lr - config.min_lr) * DECAYS[config.lr_decay_style](progress)


# share of the way from min_lr to lr that is left, for a progress from 0 to 1
DECAYS = {
    "constant": lambda _: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
