"""The model as a list of layers, and the plain model that runs them in one process (or tensor-parallel group).

The list is the same for the pipeline (neox/model/pipeline.py): global index 0 is the embedding, 1 to L the blocks,
L + 1 the final norm, L + 2 the head. Names of weights are `layers.<global index>.<name>` in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from neox.config.sections import ModelConfig, RecomputeConfig
from neox.config.shapes import attention_windows, head_width, kv_heads, mixture_layers
from neox.config.sizes import padded_vocab_size
from neox.model.block import Block
from neox.model.cache import KeyValueCache
from neox.model.documents import Documents
from neox.model.embedding import Embedding, FinalNorm, Head, tied_head
from neox.model.initializers import initialize_weights
from neox.model.linear import Sharding
from neox.model.lora import add_adapters
from neox.model.mlp import MLP
from neox.model.moe import MixtureOfExperts
from neox.parallel.topology import Topology


@dataclass(frozen=True)
class LayerSpec:
    """How to build one layer, and how to run it where that is not the module's own forward.

    tied: its weights are those of the other tied layer, which is the embedding and the head in one.
    """

    module: type[nn.Module]
    arguments: dict[str, Any]
    tied: bool = False
    forward: Callable[[nn.Module, Tensor], Tensor] | None = None

    def build(self) -> nn.Module:
        """The layer, its weights unset."""
        return self.module(**self.arguments)


def layer_specs(model: ModelConfig, *, vocab_size: int, topology: Topology, sequence_parallel: bool) -> list[LayerSpec]:
    """The layers in order; the position in the list is the global index. vocab_size is without padding."""
    sharding = Sharding(topology, sequence=sequence_parallel and topology.tensor_size > 1)
    ends = {"model": model, "vocab_size": padded_vocab_size(model, vocab_size), "sharding": sharding}
    mlps = [MixtureOfExperts if mixture else MLP for mixture in mixture_layers(model)]
    blocks = [
        LayerSpec(Block, {"model": model, "layer": layer, "window": window, "mlp": mlp, "sharding": sharding})
        for layer, (window, mlp) in enumerate(zip(attention_windows(model), mlps))
    ]
    tied = not model.no_weight_tying
    if tied:
        head = LayerSpec(Embedding, {**ends, "positions": False}, tied=True, forward=tied_head)
    else:
        head = LayerSpec(Head, ends)
    return [
        LayerSpec(Embedding, ends, tied=tied),
        *blocks,
        LayerSpec(FinalNorm, {"model": model, "sharding": sharding}),
        head,
    ]


def has_dropout(model: ModelConfig) -> bool:
    """Whether a forward pass in training draws random numbers."""
    probabilities = (model.attention_dropout, model.hidden_dropout, model.lora_dropout)
    return any(probabilities) or model.moe_jitter_eps is not None


class GPT(nn.Module):
    """The whole model: tokens (batch, seq) -> logits (seq, batch, padded vocabulary / tensor_size).

    vocab_size: without padding; columns beyond it are padding, which the loss and sampling leave out. seed, from_checkpoint: as for
    initialize_weights; without a seed all weights are left unset. Weights are fp32 until DeepSpeed, or the caller, casts them. With
    `lora_rank` only the adapters ask for gradients. finish: called with each layer, filled, before the next is built.
    """

    def __init__(
        self,
        model: ModelConfig,
        *,
        vocab_size: int,
        topology: Topology,
        recompute: RecomputeConfig | None = None,
        sequence_parallel: bool = False,
        seed: int | None = None,
        from_checkpoint: bool = False,
        finish: Callable[[nn.Module], object] | None = None,
    ):
        super().__init__()
        self.config = model
        self.vocab_size = vocab_size
        self.topology = topology
        self.recompute = recompute or RecomputeConfig()
        specs = layer_specs(model, vocab_size=vocab_size, topology=topology, sequence_parallel=sequence_parallel)
        self.layers = nn.ModuleList()

        def fill(layers: Iterable[tuple[int, nn.Module]]) -> None:
            if seed is not None:
                initialize_weights(layers, model=model, seed=seed, topology=topology, from_checkpoint=from_checkpoint)

        for index, spec in enumerate(specs):
            if spec.forward is not None:
                continue  # a tied head, the last one, has no weights of its own
            layer = spec.build()
            if model.lora_rank is not None:
                add_adapters(layer, model)
            self.layers.append(layer)
            if finish is not None:
                fill([(index, layer)])
                finish(layer)
        if finish is None:
            fill(self.indexed_layers())

    def indexed_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """(global index, layer) of the layers with weights; names of weights are `layers.<global index>.<name>`."""
        yield from enumerate(self.layers)

    def forward(
        self,
        tokens: Tensor,
        cache: KeyValueCache | None = None,
        last_only: bool = False,
        documents: Documents | None = None,
        losses: list[Tensor] | None = None,
    ) -> Tensor:
        """Logits of every position, or of the last one alone (seq is 1 then), which is all that sampling needs.

        With a cache the tokens follow those it holds, and are added to it. Without `documents` a row is one document.
        losses: a list that receives the auxiliary loss of each mixture of experts.
        """
        depth = self.config.num_layers
        hidden = self.layers[0](tokens, cache, documents=documents)
        differentiates = self.training and torch.is_grad_enabled()
        recomputed = self.recompute.recomputed_blocks(depth) if differentiates else 0
        auxiliary = []
        for first in range(0, recomputed, self.recompute.checkpoint_num_layers):
            last = min(first + self.recompute.checkpoint_num_layers, recomputed)
            hidden, added = checkpoint(
                self._blocks,
                first,
                last,
                hidden,
                documents=documents,
                use_reentrant=False,
                preserve_rng_state=has_dropout(self.config),
            )
            auxiliary += added
        hidden, added = self._blocks(recomputed, depth, hidden, cache, documents)
        if losses is not None:
            losses += auxiliary + added
        if cache is not None:
            cache.length += tokens.shape[1]
        hidden = self.layers[depth + 1](hidden[-1:] if last_only else hidden)
        return self.layers[depth + 2](hidden) if self.config.no_weight_tying else tied_head(self.layers[0], hidden)

    def _blocks(
        self,
        first: int,
        last: int,
        hidden: Tensor,
        cache: KeyValueCache | None = None,
        documents: Documents | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Hidden states behind the blocks, and their auxiliary losses: in a list of this call, which may be a recomputation."""
        losses: list[Tensor] = []
        for index in range(first, last):
            block = self.layers[1 + index]
            block.attention.prepare(hidden, cache, documents)
            # by name: ZeRO 3 looks for tensors in what comes by place
            hidden = block(hidden, cache, documents=documents, losses=losses)
        return hidden, losses

    def new_cache(self, batch_size: int, max_length: int, padding: Tensor | None = None) -> KeyValueCache:
        """An empty cache for generation, in the type and place of the weights; see KeyValueCache."""
        weight = self.layers[0].word_embeddings.weight
        return KeyValueCache(
            num_layers=self.config.num_layers,
            batch_size=batch_size,
            max_length=max_length,
            heads=kv_heads(self.config) // self.topology.tensor_size,
            head_dim=head_width(self.config),
            dtype=weight.dtype,
            device=weight.device,
            padding=padding,
        )
