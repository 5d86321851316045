"""Training in 16 bits at ZeRO 0, where the masters are ours, against ZeRO 1, where they are DeepSpeed's, and against fp32."""

from pathlib import Path

import pytest
import torch
from support.engines import Update, first_updates, losses_and_norms
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


SUMS = [{"precision": "bf16", "zero_optimization": {"stage": stage}} for stage in (0, 1, 2, 3)]


def whole_weights(ranks: list[Update]) -> dict[str, torch.Tensor]:
    """What was taken from each weight, put together from the ranges of the ranks."""
    pieces = {place: piece for rank in ranks for place, piece in rank.taken.items()}
    names = sorted({name for name, _ in pieces})
    return {name: torch.cat([pieces[place] for place in sorted(pieces) if place[0] == name]) for name in names}


def errors(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> list[float]:
    """Of each weight, relative."""
    assert found.keys() == exact.keys()
    return [float((found[name] - exact[name]).norm() / exact[name].norm()) for name in exact]


@pytest.fixture(scope="module")
def one_replica(tmp_path_factory: pytest.TempPathFactory) -> Update:
    """The first update of a single process in bf16."""
    ((update,),) = run_workers(first_updates, tmp_path_factory.mktemp("one"), processes=1, rows=SUMS[:1])
    return update


def test_gradients_of_micro_batches_are_added_up_in_fp32(one_replica: Update) -> None:
    """A sum in bf16 of so many is off by a hundredth."""
    assert max(errors(whole_weights([one_replica]), one_replica.in_fp32)) < 1e-4
    assert min(errors(one_replica.in_16_bits, one_replica.in_fp32)) > 1e-3


def test_replicas_add_up_gradients_in_fp32_at_every_stage(one_replica: Update, tmp_path: Path) -> None:
    """On the way from one to the other they are rounded to the weights' type, unless told not to be."""
    exact = whole_weights([one_replica])
    in_fp32 = [{**row, "fp32_allreduce": True} for row in SUMS]
    ranks = run_workers(first_updates, tmp_path, processes=2, rows=[*SUMS, *in_fp32])
    found = [max(errors(whole_weights(updates), exact)) for updates in zip(*ranks)]
    assert max(found[: len(SUMS)]) < 4e-3 and max(found[len(SUMS) :]) < 1e-4, found


def test_stages_of_a_pipeline_add_up_gradients_in_fp32(tmp_path: Path) -> None:
    """Also those of the embedding that two of them share."""
    ranks = run_workers(first_updates, tmp_path, processes=2, pipe=2, rows=SUMS[1:2])
    first, last = (update for (update,) in ranks)
    tied = first.in_fp32.keys() & last.in_fp32.keys()
    exact = {**first.in_fp32, **last.in_fp32, **{name: first.in_fp32[name] + last.in_fp32[name] for name in tied}}
    assert len(tied) == 1 and max(errors(whole_weights([first, last]), exact)) < 1e-4


def test_the_divisor_clips_like_torch() -> None:
    gradient = torch.randn(50, generator=torch.Generator().manual_seed(1))
    for clip in (0.5, 100.0):
        parameter = torch.nn.Parameter(torch.zeros(50))
        parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_([parameter], clip)
        torch.testing.assert_close(gradient / divisor(norm, clip), parameter.grad)
    assert float(divisor(norm, 0.0)) == 1.0
