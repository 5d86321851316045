"""Steps of the engine on a small model, in the workers of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from neox.checkpoint.fragments import fragments
from neox.checkpoint.tensors import WEIGHT
from neox.config.read import config_from_values
from neox.data.batches import Batch
from neox.parallel.topology import Topology
from neox.training.engine import Engine

VOCAB, SEQ, ROWS = 65, 16, 4
LEARNING_RATE = 1e-2
MODEL = {
    "num_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "max_position_embeddings": SEQ,
    "tokenizer_type": "CharLevelTokenizer",
}


def samples() -> Iterator[Batch]:
    """The same batch again and again: a model that learns at all learns it."""
    tokens = torch.randint(VOCAB, (ROWS, SEQ + 1), generator=torch.Generator().manual_seed(5))
    while True:
        yield Batch(tokens[:, :-1], tokens[:, 1:], torch.ones(ROWS, SEQ))


def losses_and_norms(topology: Topology, *, rows: list[dict], steps: int) -> list[tuple[list[float], list[float]]]:
    """Losses and gradient norms of an engine for each row of configuration keys; each replica reads
    the same samples, and clipping is active."""
    results = []
    for keys in rows:
        values = {
            **MODEL,
            "train_batch_size": ROWS,
            "train_iters": steps,
            "gradient_clipping": 0.5,
            "num_gpus": topology.world_size,
            "model_parallel_size": topology.tensor_size,
            **keys,
        }
        engine = Engine(config_from_values(values), topology, VOCAB)
        batches = samples()
        done = [engine.train_step(batches, LEARNING_RATE) for _ in range(steps)]
        assert not any(step.skipped for step in done)
        results.append(([float(step.loss) for step in done], [float(step.grad_norm) for step in done]))
    return results


MICRO_BATCHES = 64
RATE = 4096.0  # such that an update is exact to fp32's last digits beside norms' weights of 1


@dataclass(frozen=True)
class Update:
    """What a step of plain SGD takes from the masters over its rate: the gradient of 64 samples, each a micro-batch.

    taken: the ranges that this rank holds, by the weight's name and the first element.
    """

    taken: dict[tuple[str, int], torch.Tensor]
    in_fp32: dict[str, torch.Tensor]  # the sum of what this rank's micro-batches gave to each weight
    in_16_bits: dict[str, torch.Tensor]  # the same, added up in the weights' type


def first_updates(topology: Topology, *, rows: list[dict]) -> list[Update]:
    """The first step of an engine for each row of configuration keys, on the same samples whatever the layout."""
    tokens = torch.randint(VOCAB, (MICRO_BATCHES, 1, SEQ + 1), generator=torch.Generator().manual_seed(5))
    updates = []
    for keys in rows:
        values = {
            **MODEL,
            "train_batch_size": MICRO_BATCHES,
            "train_micro_batch_size_per_gpu": 1,
            "train_iters": 1,
            "gradient_clipping": 0.0,
            "optimizer": {"type": "SGD", "params": {"lr": RATE}},
            "weight_decay": 0.0,
            "num_gpus": topology.world_size,
            "pipe_parallel_size": topology.pipe_size,
            **keys,
        }
        engine = Engine(config_from_values(values), topology, VOCAB)
        masters = {
            (piece.name, piece.start): piece.tensors[WEIGHT].detach()
            for piece in fragments(engine.state.names, engine.state.optimizer, [])
        }
        before = {place: master.clone() for place, master in masters.items()}
        seen: dict[str, list[torch.Tensor]] = defaultdict(list)
        for weight, name in engine.state.names.items():
            weight.register_hook(lambda gradient, seen=seen, name=name: seen[name].append(gradient.flatten().clone()))
        own = tokens[topology.data_rank :: topology.data_size]
        engine.train_step((Batch(row[:, :-1], row[:, 1:], torch.ones(1, SEQ)) for row in own), RATE)
        updates.append(
            Update(
                taken={place: (old - masters[place]) / RATE for place, old in before.items()},
                in_fp32={name: torch.stack(gradients).float().sum(0) for name, gradients in seen.items()},
                in_16_bits={name: sum(gradients[1:], gradients[0]).float() for name, gradients in seen.items()},
            )
        )
    return updates
