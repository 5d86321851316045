"""Rules of the optimizer, the length of a run, its checkpoints, and generation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neox.config.deepspeed import base_config
from neox.config.draft import SECTION_OF
from neox.config.rules.rule import Complaints, Rule
from neox.config.shapes import has_reference, is_causal


def rates_are_in_order(config: Any) -> Complaints:
    lowest, peak = config.optimization.min_lr, config.optimization.lr
    if lowest > peak:
        yield "min_lr optimizer.params.lr", f"{lowest:g} is above the peak rate optimizer.params.lr {peak:g}"


def momentum_is_for_sgd(config: Any) -> Complaints:
    optimizer = config.optimization.optimizer
    if optimizer.params.momentum and optimizer.type != "SGD":
        yield "optimizer.params.momentum", f"is a setting of SGD, and optimizer.type is {optimizer.type}"


def training_has_an_end(config: Any) -> Complaints:
    if config.batch.train_iters is None:
        yield "train_iters", "is missing: train.py needs the number of optimizer steps, or train_epochs"


def saved_steps_are_within_the_run(config: Any) -> Complaints:
    steps = config.batch.train_iters
    beyond = [step for step in config.checkpoint.extra_save_iters if steps is not None and step > steps]
    if beyond:
        yield "extra_save_iters", f"step {beyond[0]} is beyond train_iters {steps}"


def nothing_is_saved(config: Any) -> Complaints:
    checkpoint = config.checkpoint
    keys = {
        "checkpoint_factor": checkpoint.checkpoint_factor is not None,
        "extra_save_iters": bool(checkpoint.extra_save_iters),
        "keep_last_n_checkpoints": checkpoint.keep_last_n_checkpoints is not None,
        "checkpoint_upload": checkpoint.checkpoint_upload is not None,
    }
    wanted = [key for key, given in keys.items() if given]
    if wanted and checkpoint.save is None:
        yield wanted[0], "has no effect: save is not given, so this run writes no checkpoints"


def checkpoint_urls_are_plain(config: Any) -> Complaints:
    upload, load = config.checkpoint.checkpoint_upload, config.checkpoint.load
    if upload is not None and "://" not in upload:
        yield "checkpoint_upload", f"{upload} is not a URL, as in s3://bucket/run or file:///folder"
    for key, url in (("checkpoint_upload", upload), ("load", load)):
        if url is not None and "://" in url and "@" in url.partition("://")[2].partition("/")[0]:
            yield (
                key,
                "has a password in it, which logs and checkpoints would show: give it in the environment "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)",
            )


def finetuning_needs_weights(config: Any) -> Complaints:
    if config.checkpoint.finetune and config.checkpoint.load is None:
        yield "finetune", "starts from the weights of load, which is not given"


def references_are_kept(config: Any) -> Complaints:
    if has_reference(config.model) and not config.checkpoint.finetune:
        yield (
            "train_impl finetune load",
            "dpo compares with the weights that it begins with: give load and finetune: true (a run goes on from its save), or "
            "dpo_reference_free: true",
        )


def restarts_have_checkpoints(config: Any) -> Complaints:
    if config.launch.max_restarts and config.checkpoint.save is None:
        yield "max_restarts", "a restart goes on from a checkpoint: give save, and checkpoint_factor"


def rollbacks_have_checkpoints(config: Any) -> Complaints:
    checkpoint, optimization = config.checkpoint, config.optimization
    saves = checkpoint.save is not None and (checkpoint.checkpoint_factor or checkpoint.extra_save_iters)
    for key in ("on_nonfinite", "on_loss_spike"):
        unused = key == "on_loss_spike" and optimization.loss_spike_factor is None
        if getattr(optimization, key) == "rollback" and not saves and not unused:
            yield key, "a rollback goes back to a checkpoint: give save, and checkpoint_factor"


def profiles_have_steps_and_a_place(config: Any) -> Complaints:
    monitor = config.monitor
    if not monitor.profile:
        return
    if monitor.log_dir is None:
        yield "profile", "writes into log_dir, which is not given"
    if monitor.profile_step_stop <= monitor.profile_step_start:
        yield (
            "profile_step_start profile_step_stop",
            f"no step is recorded: {monitor.profile_step_stop} is the first that is not, "
            f"and {monitor.profile_step_start} the first that is",
        )


def generation_has_weights(config: Any) -> Complaints:
    if config.checkpoint.load is None and config.checkpoint.save is None:
        yield "load", "is missing: the weights come from the folder of a checkpoint, in load or save"


def generation_goes_forward(config: Any) -> Complaints:
    if not is_causal(config.model):
        yield "train_impl", "a model of train_impl mlm sees both sides of a token and cannot continue texts"


def generation_has_prompts(config: Any) -> Complaints:
    generation = config.generation
    if generation.text_gen_type == "input-file" and generation.sample_input_file is None:
        yield "sample_input_file", "is missing: text_gen_type is input-file"


def extra_settings_are_extra(config: Any) -> Complaints:
    ours = base_config(config)
    for path in _leaves(config.run.deepspeed_extra_args):
        top = path.split(".")[0]
        if top in ("optimizer", "scheduler"):
            yield (
                "deepspeed_extra_args",
                f"{path}: the {top} is built here, not by DeepSpeed: use the keys of that name",
            )
        elif top in SECTION_OF and _is_set(path, ours):
            yield "deepspeed_extra_args", f"{path} is set by the key {path} already: use that"
        elif _is_set(path, ours):
            yield "deepspeed_extra_args", f"{path} is set by the engine, and cannot be changed"
        elif top in SECTION_OF and not isinstance(ours.get(top), Mapping):
            yield "deepspeed_extra_args", f"{path} is a key of its own: give {path} outside deepspeed_extra_args"


def _leaves(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _is_set(path: str, settings: Mapping[str, Any]) -> bool:
    value: Any = settings
    for name in path.split("."):
        if not isinstance(value, Mapping):
            return True
        if name not in value:
            return False
        value = value[name]
    return True


RULES: list[Rule] = [
    rates_are_in_order,
    momentum_is_for_sgd,
    checkpoint_urls_are_plain,
    finetuning_needs_weights,
    extra_settings_are_extra,
]
TRAINING_RULES: list[Rule] = [
    training_has_an_end,
    saved_steps_are_within_the_run,
    references_are_kept,
    restarts_have_checkpoints,
    rollbacks_have_checkpoints,
    profiles_have_steps_and_a_place,
]
TRAINING_WARNINGS: list[Rule] = [nothing_is_saved]
GENERATION_RULES: list[Rule] = [generation_has_weights, generation_goes_forward, generation_has_prompts]
