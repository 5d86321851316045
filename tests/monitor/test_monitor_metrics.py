import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from neox.monitor.gpus import peak_tflops
from neox.monitor.metrics import (
    Throughput,
    memory_metrics,
    runtime_metrics,
    training_metrics,
    validation_metrics,
)

CPU = torch.device("cpu")


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def throughput(clock, **changes):
    arguments = {
        "samples_per_step": 8,
        "tokens_per_sample": 16,
        "flops_per_token": 1e9,
        "processes": 4,
        "peak_tflops": None,
    }
    return Throughput(**arguments | changes, clock=clock)


def test_rates_count_steps_since_the_last_line_without_evaluation_and_saving():
    clock = Clock()
    timer = throughput(clock)
    for _ in range(4):
        clock.now += 0.5
        timer.step()
    with timer.paused():
        clock.now += 60
    first = timer.take()
    assert first["runtime/iteration_time"] == pytest.approx(0.5)
    assert first["runtime/samples_per_sec"] == pytest.approx(16)
    assert first["runtime/tokens_per_sec"] == pytest.approx(256)
    assert first["runtime/flops_per_sec_per_gpu"] == pytest.approx(256e9 / 4)
    assert "runtime/model_flops_utilization" not in first

    clock.now += 3
    timer.step()
    assert timer.take()["runtime/iteration_time"] == pytest.approx(3), "the second line starts where the first ended"
    assert timer.take() == {}, "no step, no rate"


def test_paused_time_is_left_out_when_the_evaluation_fails_too():
    clock = Clock()
    timer = throughput(clock)
    with pytest.raises(RuntimeError), timer.paused():
        clock.now += 60
        raise RuntimeError
    clock.now += 1
    timer.step()
    assert timer.take()["runtime/iteration_time"] == pytest.approx(1)


def test_utilization_is_of_one_device():
    metrics = runtime_metrics(
        seconds_per_step=2, samples_per_step=4, tokens_per_sample=50, flops_per_token=3e12, processes=2, peak_tflops=300
    )
    # 100 tokens/s of 3 TFLOP each over 2 devices is 150 TFLOP/s on each
    assert metrics["runtime/model_flops_utilization"] == pytest.approx(0.5)


def test_configured_peak_goes_first_and_a_cpu_has_none():
    assert peak_tflops(123.0, CPU, "fp32") == 123.0
    assert peak_tflops(None, CPU, "fp32") is None


def test_what_is_not_known_is_left_out():
    arguments = {"lm_loss": 2.0, "learning_rate": 1e-3, "consumed_tokens": 100}
    assert training_metrics(grad_norm=None, loss_scale=None, **arguments) == {
        "train/lm_loss": 2.0,
        "train/learning_rate": 1e-3,
        "train/consumed_tokens": 100,
    }
    full = training_metrics(grad_norm=0.5, loss_scale=65536.0, **arguments)
    assert (full["train/grad_norm"], full["train/loss_scale"]) == (0.5, 65536.0)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_perplexity_never_raises(loss):
    metrics = validation_metrics({"lm_loss": loss})
    if loss < 700:
        assert metrics["validation/lm_loss_ppl"] == math.exp(loss)
    json.dumps(metrics)


def test_memory_on_a_cpu_is_the_process_in_bytes():
    # a process that imported torch holds more than 50 MB and less than this machine's address space
    assert 50e6 < memory_metrics(CPU)["memory/max_allocated"] < 1e12
