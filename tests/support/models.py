"""Small models: their topology, inputs and gradients, in this process or in the workers of a group."""

from __future__ import annotations

import deepspeed
import torch
from torch import Tensor

from neox.config.sections import ModelConfig, RecomputeConfig
from neox.model import pipeline
from neox.model.gpt import GPT
from neox.model.loss import cross_entropy
from neox.parallel.megatron import gather_from_tensor_model_parallel_region
from neox.parallel.mpu import MpuAdapter
from neox.parallel.topology import Topology

VOCAB = 65
SEQ = 16


def topology_of(*, tensor_rank: int = 0, tensor_size: int = 1) -> Topology:
    """A topology without processes behind it: enough for one process, and for building the layers of one of several."""
    return Topology(
        rank=tensor_rank,
        local_rank=0,
        world_size=tensor_size,
        tensor_rank=tensor_rank,
        tensor_size=tensor_size,
        pipe_rank=0,
        pipe_size=1,
        data_rank=0,
        data_size=1,
        device=torch.device("cpu"),
        backend="gloo",
    )


def small(**keys) -> ModelConfig:
    """A model of 2 blocks, 4 heads of 8."""
    shape = {"num_layers": 2, "hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": SEQ}
    return ModelConfig(**{**shape, **keys})


def batch(rows: int = 4, seq: int = SEQ) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, labels and weights (rows, seq), the same in every process; a fifth of the tokens has no weight."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCAB, (rows, seq), generator=generator)
    labels = torch.randint(VOCAB, (rows, seq), generator=generator)
    weights = (torch.rand(rows, seq, generator=generator) > 0.2).float()
    return tokens, labels, weights / weights.sum()


def gradients(
    topology: Topology, *, model: ModelConfig, sequence_parallel: bool = False, recompute: RecomputeConfig | None = None
) -> dict:
    """Logits of the true vocabulary, loss, embedded tokens, and this rank's gradients by name with the dimension they are split along."""
    torch.manual_seed(11)
    gpt = GPT(
        model,
        vocab_size=VOCAB,
        topology=topology,
        recompute=recompute,
        sequence_parallel=sequence_parallel,
        seed=3,
    )
    # biases, norms and adapters too must matter
    for name, parameter in gpt.named_parameters():
        if parameter.dim() == 1 or name.endswith(("bias", "adapter.up")):
            values = torch.linspace(-0.5, 0.5, parameter.numel()).view_as(parameter)
            parameter.data += values if not parameter.tensor_model_parallel else 0.1
    tokens, labels, weights = batch()
    logits = gpt(tokens)
    loss = cross_entropy(logits, labels, weights, vocab_size=VOCAB, topology=topology)
    loss.backward()
    if topology.tensor_size > 1:
        logits = gather_from_tensor_model_parallel_region(logits, group=topology.tensor_group)
    return {
        "logits": logits.detach()[..., :VOCAB],
        "loss": loss.detach(),
        "embedded": gpt.layers[0](tokens).detach(),
        "gradients": {
            name: (parameter.grad, parameter.partition_dim if parameter.tensor_model_parallel else None)
            for name, parameter in gpt.named_parameters()
            if parameter.requires_grad
        },
    }


def gradient_table(topology: Topology, *, rows: list[dict]) -> list[dict]:
    """`gradients` for each row of keyword arguments, in one group of processes."""
    return [gradients(topology, **row) for row in rows]


def one_step(
    topology: Topology,
    *,
    model: ModelConfig,
    zero_stage: int,
    recompute: RecomputeConfig | None,
    dtype: torch.dtype = torch.float32,
) -> dict:
    """One SGD step of DeepSpeed over 4 rows as 2 micro-batches: loss, gradient norm, and the weights after it."""
    arguments = {
        "vocab_size": VOCAB,
        "topology": topology,
        "recompute": recompute,
        "seed": 3,
    }
    pipelined = topology.pipe_size > 1
    module = pipeline.pipeline_module(model, **arguments) if pipelined else GPT(model, **arguments)
    layers = pipeline.indexed_layers(module) if pipelined else module.indexed_layers()
    named = {f"layers.{index}.{name}": weight for index, layer in layers for name, weight in layer.named_parameters()}
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=torch.optim.SGD(module.parameters(), lr=0.5),
        mpu=None if pipelined else MpuAdapter(topology),
        dist_init_required=False,
        config={
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 2,
            "zero_optimization": {"stage": zero_stage},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": dtype == torch.bfloat16},
        },
    )
    tokens, labels, weights = batch()
    # DeepSpeed averages over the micro-batches
    halves = [(tokens[rows], (labels[rows], 2 * weights[rows])) for rows in (slice(0, 2), slice(2, 4))]
    if pipelined:
        loss = engine.train_batch(iter(halves))
    else:
        loss = torch.zeros(())
        for inputs, (targets, token_weights) in halves:
            part = cross_entropy(engine(inputs), targets, token_weights, vocab_size=VOCAB, topology=topology)
            engine.backward(part)
            engine.step()
            loss += part.detach() / 2
    return {
        "loss": float(loss),
        "grad_norm": float(engine.get_global_grad_norm()),
        "weights": {name: weight.detach().clone() for name, weight in named.items()},
    }


def one_step_table(topology: Topology, *, rows: list[dict]) -> list[dict]:
    """`one_step` for each row of keyword arguments, in one group of processes."""
    return [one_step(topology, **row) for row in rows]


def two_documents() -> tuple[Tensor, Tensor, Tensor]:
    """Two rows of two documents each, the second of which begins at 6 or at 11: tokens, document numbers, positions."""
    tokens, _, _ = batch(rows=2)
    starts = torch.tensor([[6], [11]])
    places = torch.arange(SEQ).expand(2, SEQ)
    second = places >= starts
    return tokens, second.long(), places - starts * second
