"""Coordinates and groups, in one process and in four."""

import dataclasses
import itertools
import random
from pathlib import Path

import numpy
import pytest
import torch
from support.models import topology_of
from support.parallel import one_process_without_a_launcher, say_and_leave, where_am_i
from support.workers import run_workers

from neox.parallel.seeding import seed_everything
from neox.parallel.topology import coordinates


def test_tensor_counts_fastest_and_pipe_slowest() -> None:
    assert [coordinates(rank, tensor_size=2, data_size=3) for rank in range(7)] == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (0, 2, 0),
        (0, 2, 1),
        (1, 0, 0),
    ]


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of four processes finds out about itself: two tensor ranks in each of two stages."""
    return run_workers(where_am_i, tmp_path_factory.mktemp("four"), processes=4, tensor=2, pipe=2)


def test_four_processes(four: list[dict]) -> None:
    assert [result["name"] for result in four] == [f"TP(2)-PP(2)-DP(1)-Rank({rank})" for rank in range(4)]
    assert [result["tensor"] for result in four] == [[0, 1], [0, 1], [2, 3], [2, 3]]
    assert [result["pipe"] for result in four] == [[0, 2], [1, 3], [0, 2], [1, 3]]
    assert [result["data"] for result in four] == [[0], [1], [2], [3]]
    assert [result["model"] for result in four] == [[0, 1, 2, 3]] * 4
    assert [result["first"] for result in four] == [True, True, False, False]
    assert [result["last"] for result in four] == [False, False, True, True]
    assert [result["main"] for result in four] == [True, False, False, False]


def test_random_numbers_are_in_step_over_a_tensor_group_only(four: list[dict]) -> None:
    shared = [result["shared"] for result in four]
    assert shared[0] == shared[1] and shared[2] == shared[3] and shared[0] != shared[2]
    own = [tuple(result["own"]) for result in four]
    assert len(set(own)) == 4
    assert all(result["again"] == result["own"] for result in four), "the same state draws the same masks"
    assert all(result["next"] != result["own"] for result in four), "each call draws other ones"
    after = [result["after"] for result in four]
    assert after[0] == after[1] and after[2] == after[3], "the shared stream is in step afterwards"


def test_seeds_differ_between_replicas_and_stages_alone() -> None:
    seeds = []
    for pipe, data, tensor in itertools.product(range(2), range(2), range(2)):
        here = dataclasses.replace(topology_of(), pipe_rank=pipe, pipe_size=2, data_rank=data, data_size=2)
        seed_everything(5, dataclasses.replace(here, tensor_rank=tensor, tensor_size=2))
        seeds.append((torch.initial_seed(), random.random(), numpy.random.rand()))
    assert seeds[0::2] == seeds[1::2]
    assert len(set(seeds)) == 4


def test_a_lone_process_needs_no_launcher(tmp_path: Path) -> None:
    """Nor does one that inherits its environment while it runs: they do not meet at one port."""
    assert one_process_without_a_launcher(tmp_path).splitlines() == ["TP(1)-PP(1)-DP(1)-Rank(0) cpu gloo"] * 2


def test_what_every_rank_has_to_say_is_said_once(tmp_path: Path) -> None:
    """Though the one that says it first ends at once."""
    run_workers(say_and_leave, tmp_path, processes=2, results=str(tmp_path))
    said = "".join(log.read_text() for log in tmp_path.glob("*.log"))
    assert said.count("the same mistake") == 1
