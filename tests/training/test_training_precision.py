"""Training in 16 bits at ZeRO 0, where the masters are ours, against ZeRO 1, where they are DeepSpeed's, and against fp32."""

from pathlib import Path

import pytest
import torch
from support.engines import losses_and_norms, summed_in_fp32
from support.workers import run_workers

from neox.training.gradients import divisor

FP16 = {"precision": "fp16", "fp16": {"initial_scale_power": 8}}
PRECISIONS = {"bf16": {"precision": "bf16"}, "fp16": FP16}
ROWS = [
    {**precision, "zero_optimization": {"stage": stage}}
    for precision in ({"precision": "fp32"}, *PRECISIONS.values())
    for stage in (0, 1)
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list]:
    """Losses and norms of all rows with two replicas, by the number of processes that share the model."""
    return {
        size: run_workers(
            losses_and_norms,
            tmp_path_factory.mktemp(f"tensor{size}"),
            processes=2 * size,
            tensor=size,
            rows=ROWS,
            steps=6,
        )[0]
        for size in (1, 2)
    }


@pytest.mark.parametrize("tensor_size", [1, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_zero_0_trains_in_16_bits_like_zero_1(runs: dict[int, list], precision: str, tensor_size: int) -> None:
    first = 2 + 2 * list(PRECISIONS).index(precision)
    full, plain, partitioned = (torch.tensor(runs[tensor_size][row]) for row in (0, first, first + 1))
    torch.testing.assert_close(plain, partitioned, rtol=2e-3, atol=0)
    torch.testing.assert_close(plain, full, rtol=5e-2, atol=0)
    assert plain[0, -1] < plain[0, 0] - 0.5, "the loss falls"


def test_gradients_of_micro_batches_are_added_up_in_fp32(tmp_path: Path) -> None:
    """A sum in bf16 of so many is off by a hundredth."""
    (sums,) = run_workers(summed_in_fp32, tmp_path, processes=1, keys={"precision": "bf16"})
    for taken, exact, rounded in zip(sums["taken"], sums["fp32"], sums["16 bits"]):
        error, of_bf16 = ((found - exact).norm() / exact.norm() for found in (taken, rounded))
        assert error < 1e-4 < 1e-3 < of_bf16


def test_the_divisor_clips_like_torch() -> None:
    gradient = torch.randn(50, generator=torch.Generator().manual_seed(1))
    for clip in (0.5, 100.0):
        parameter = torch.nn.Parameter(torch.zeros(50))
        parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([parameter], clip)
        torch.testing.assert_close(gradient / divisor(norm, clip), parameter.grad)
    assert float(divisor(norm, 0.0)) == 1.0
