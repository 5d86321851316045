"""Steps of the engine on a small model, in the workers of a group."""

from __future__ import annotations

from collections.abc import Iterator

import torch

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


def summed_in_fp32(topology: Topology, *, keys: dict) -> dict[str, list[torch.Tensor]]:
    """What a step of plain SGD with rate 1 over many micro-batches takes from the masters of each weight, and the sums of their
    gradients in fp32 and in the weights' type."""
    micro_batches = 64
    values = {
        **MODEL,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micro_batches,
        "train_iters": 1,
        "gradient_clipping": 0.0,
        "optimizer": {"type": "SGD", "params": {"lr": 1.0}},
        "weight_decay": 0.0,
        "num_gpus": 1,
        **keys,
    }
    engine = Engine(config_from_values(values), topology, VOCAB)
    optimizer = engine._engine.optimizer
    pairs = list(zip(optimizer.fp16_groups[0], optimizer.fp32_groups[0]))
    before = [master.detach().clone() for _, master in pairs]
    seen: list[list[torch.Tensor]] = [[] for _ in pairs]
    for (weight, _), gradients in zip(pairs, seen):
        weight.register_hook(lambda gradient, gradients=gradients: gradients.append(gradient.clone()))
    tokens = torch.randint(VOCAB, (micro_batches, 1, SEQ + 1), generator=torch.Generator().manual_seed(5))
    engine.train_step((Batch(row[:, :-1], row[:, 1:], torch.ones(1, SEQ)) for row in tokens), 1.0)
    return {
        "taken": [old - master.detach() for old, (_, master) in zip(before, pairs)],
        "fp32": [torch.stack(gradients).float().sum(0) for gradients in seen],
        "16 bits": [sum(gradients[1:], gradients[0]).float() for gradients in seen],
    }
