"""The dict that `deepspeed.initialize` takes: DeepSpeed's spellings live here and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from neox.config.sections import Config, Fp16, ZeroOptimization

NEVER = 1_000_000_000  # steps between DeepSpeed's own lines: the console is ours


def deepspeed_config(config: Config) -> dict[str, Any]:
    """DeepSpeed's settings for a resolved configuration, `deepspeed_extra_args` merged in."""
    return _merged(base_config(config), config.run.deepspeed_extra_args)


def base_config(config: Any) -> dict[str, Any]:
    """The settings that follow from our own keys."""
    batch, zero, section = config.batch, config.optimization.zero_optimization, config.precision
    settings: dict[str, Any] = {
        "train_batch_size": batch.train_batch_size,
        "train_micro_batch_size_per_gpu": batch.train_micro_batch_size_per_gpu,
        "gradient_accumulation_steps": batch.gradient_accumulation_steps,
        "gradient_clipping": config.optimization.gradient_clipping,
        "zero_optimization": {
            name: _plain(getattr(zero, name))
            for name in ZeroOptimization.model_fields
            if getattr(zero, name) is not None
        }
        | {"stage": engine_zero_stage(config)},
        "zero_allow_untested_optimizer": True,  # SGD, which DeepSpeed does not list
        # an offloaded optimizer is torch's fused one too: DeepSpeed's own is compiled at the first start
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": NEVER,
        "wall_clock_breakdown": False,  # timers are ours too
    }
    if section.precision == "fp16":
        fp16 = section.fp16 or Fp16()
        settings["fp16"] = {name: getattr(fp16, name) for name in Fp16.model_fields} | {"enabled": True}
    if section.precision == "bf16":
        # the norm tells the same; this would be a pass over all gradients, for which the host waits
        settings["bf16"] = {"enabled": True, "check_grad_overflow": False}
    if sums_in_fp32(config):
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    if reduces_in_fp32(config):
        settings["communication_data_type"] = "fp32"
    if config.parallel.pipe_size > 1 and config.parallel.sequence_parallel:
        # Stages would send a slice of each activation, taking the tensor-parallel ranks' copies for equal: these are not.
        settings["pipeline"] = {"pipe_partitioned": False, "grad_partitioned": False}
    return settings


def engine_zero_stage(config: Any) -> int:
    """The ZeRO stage that DeepSpeed runs: with one replica there is nothing to divide, and stage 0 computes the same without
    the copies that dividing takes."""
    parallel, zero = config.parallel, config.optimization.zero_optimization
    alone = parallel.data_size == 1 and parallel.pipe_size == 1
    return 0 if alone and not zero.offloads_optimizer and not zero.offloads_parameters else zero.stage


def sums_in_fp32(config: Any) -> bool:
    """Whether DeepSpeed adds up 16-bit gradients of micro-batches in fp32, as it does from ZeRO 1 on when it is told to. At stage 0
    neox/training/masters.py does it."""
    several = config.batch.gradient_accumulation_steps > 1
    return several and config.precision.precision != "fp32" and engine_zero_stage(config) > 0


def reduces_in_fp32(config: Any) -> bool:
    """Whether 16-bit gradients are averaged over the replicas in fp32. One replica sends nothing, but DeepSpeed would round its sums."""
    return config.precision.fp32_allreduce or (sums_in_fp32(config) and config.parallel.data_size == 1)


def _plain(value: Any) -> Any:
    """A section within a dict as a dict; any other value as it is."""
    fields = getattr(value, "model_fields", None)
    return value if fields is None else {name: getattr(value, name) for name in fields}


def _merged(settings: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(settings)
    for name, value in extra.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
