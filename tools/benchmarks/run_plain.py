"""A contestant: the plain PyTorch loop. Started by tools/benchmarks/contest.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import torch

from neox.config.handover import unpack
from neox.config.sections import ModelConfig
from neox.config.sizes import padded_vocab_size
from tools.benchmarks.plain import PlainGPT, PlainShape, PlainTrainer, Precision, random_batches
from tools.benchmarks.serve import Turn, contestant_parser, serve, timed


def plain_shape(model: ModelConfig, vocab_size: int) -> PlainShape:
    """The sizes of the same model; asserts that it is of the one kind that the plain loop has."""
    kind = (model.pos_emb, model.rotary_pct, model.norm, model.activation, model.gpt_j_residual, model.no_weight_tying)
    assert kind == ("rotary", 1.0, "layernorm", "gelu", False, True), f"the plain loop has no model like {kind}"
    return PlainShape(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_heads=model.num_attention_heads,
        seq_length=model.seq_length,
        vocab_size=padded_vocab_size(model, vocab_size),
        rotary_base=model.rotary_emb_base,
        norm_epsilon=model.layernorm_epsilon,
    )


def main() -> None:
    """Serve the plain loop."""
    parser = contestant_parser()
    parser.add_argument("--precision", choices=get_args(Precision), required=True)
    parser.add_argument("--compiled", action="store_true")
    arguments = parser.parse_args()
    config = unpack(arguments.config)
    device = torch.device("cpu" if config.run.distributed_backend == "gloo" else "cuda")

    def build() -> Callable[[int], Turn]:
        torch.manual_seed(config.run.seed)
        optimizer = config.optimization
        trainer = PlainTrainer(
            PlainGPT(plain_shape(config.model, arguments.vocab_size)),
            precision=arguments.precision,
            device=device,
            compiled=arguments.compiled,
            betas=optimizer.optimizer.params.betas,
            weight_decay=optimizer.weight_decay,
            clip=optimizer.gradient_clipping,
        )
        batches = random_batches(arguments.vocab_size, config.batch.train_batch_size, config.model.seq_length)
        return timed(lambda: trainer.step(*next(batches)))

    serve(arguments.answers, build, device)


if __name__ == "__main__":
    main()
