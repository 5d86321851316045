"""The same list of layers as a DeepSpeed pipeline. The one file of the model that imports DeepSpeed.

Only hidden states cross the stages: positions and masks are made where they are needed. Every stage reads the same micro-batches,
so it is told of their documents by its own engine.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from itertools import repeat
from types import SimpleNamespace

import deepspeed
from deepspeed.pipe import LayerSpec as StageLayer
from deepspeed.pipe import PipelineModule, TiedLayerSpec
from deepspeed.runtime.pipe import schedule
from deepspeed.runtime.pipe.engine import PipelineEngine
from deepspeed.runtime.pipe.topology import PipeModelDataParallelTopology
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from neox.config.sections import ModelConfig, RecomputeConfig
from neox.model.block import Block
from neox.model.documents import Documents
from neox.model.embedding import Embedding
from neox.model.gpt import LayerSpec, has_dropout, layer_specs
from neox.model.initializers import initialize_weights
from neox.model.loss import cross_entropy
from neox.monitor.timers import Timers
from neox.parallel.topology import Topology

# between CPU ranks DeepSpeed would compile an all-reduce of its own, for minutes at the first start; gloo serves
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

_TIE = "embedding"

# the parts of a step, by what a schedule has a stage do; to transfer is to wait for another stage too
_PARTS = {
    schedule.LoadMicroBatch: "data",
    schedule.ForwardPass: "forward",
    schedule.BackwardPass: "backward",
    schedule.ReduceGrads: "backward",
    schedule.ReduceTiedGrads: "backward",
    schedule.OptimizerStep: "optimizer",
    schedule.SendActivation: "transfer",
    schedule.RecvActivation: "transfer",
    schedule.SendGrad: "transfer",
    schedule.RecvGrad: "transfer",
}


class Stage(PipelineModule):
    """The layers of one process, run on one micro-batch after another. Blocks are recomputed one by one: groups of blocks would
    depend on where the stages are cut.

    documents: those of the micro-batches to come, in their order, which every schedule of forward passes keeps; set it before each
    step of a run whose samples tell documents apart.
    """

    def __init__(self, *, recompute: RecomputeConfig, dropout: bool, **arguments):
        super().__init__(**arguments)
        self.documents: Iterator[Documents | None] = repeat(None)
        blocks = [layer for layer in self.forward_funcs if isinstance(layer, Block)]
        self._recomputed = set(blocks[: recompute.recomputed_blocks(len(blocks))])
        self._dropout = dropout

    def forward(self, hidden: Tensor) -> Tensor:
        """Tokens (batch, seq) on the first stage or hidden states -> hidden states, or on the last stage logits."""
        documents = next(self.documents)
        for layer in self.forward_funcs:
            if isinstance(layer, Block):
                layer.attention.prepare(hidden, None, documents)
            if layer in self._recomputed:
                hidden = checkpoint(
                    layer, hidden, documents=documents, use_reentrant=False, preserve_rng_state=self._dropout
                )
            elif isinstance(layer, (Embedding, Block)):
                hidden = layer(hidden, documents=documents)
            else:
                hidden = layer(hidden)
        return hidden

    def get_tied_weights_and_groups(self) -> list[tuple[SimpleNamespace, ProcessGroup]]:
        """What DeepSpeed's engine sums up over the stages that share a weight. It takes `grad`, but at ZeRO 1 its sums of 16-bit
        gradients in fp32 are in `grad_accum`, and it would leave them out."""
        return [
            (SimpleNamespace(grad=weight.grad_accum if weight.grad is None else weight.grad), group)
            for weight, group in super().get_tied_weights_and_groups()
        ]


def pipeline_module(
    model: ModelConfig,
    *,
    vocab_size: int,
    topology: Topology,
    recompute: RecomputeConfig | None = None,
    sequence_parallel: bool = False,
    seed: int | None = None,
    from_checkpoint: bool = False,
    compiled: bool = False,
) -> Stage:
    """This process's stage; arguments as for GPT. compiled: the loss is, by torch.compile. Every rank calls this: it makes groups and balances the blocks.

    Its loss function takes (labels, weights) beside the logits of the last stage.
    """
    deepspeed.init_distributed(dist_backend=topology.backend, verbose=False)
    specs = layer_specs(model, vocab_size=vocab_size, topology=topology, sequence_parallel=sequence_parallel)

    def loss(logits: Tensor, labels_and_weights: tuple[Tensor, Tensor]) -> Tensor:
        labels, weights = labels_and_weights
        return cross_entropy(logits, labels, weights, vocab_size=vocab_size, topology=topology, compiled=compiled)

    with contextlib.redirect_stdout(io.StringIO()):  # it prints its layers; the plan has said where they are
        stage = Stage(
            recompute=recompute or RecomputeConfig(),
            dropout=has_dropout(model),
            layers=[_stage_layer(spec) for spec in specs],
            topology=PipeModelDataParallelTopology(
                num_pp=topology.pipe_size, num_mp=topology.tensor_size, num_dp=topology.data_size
            ),
            loss_fn=loss,
            partition_method="type:Block",
        )
    if seed is not None:
        layers = indexed_layers(stage)
        initialize_weights(layers, model=model, seed=seed, topology=topology, from_checkpoint=from_checkpoint)
    return stage


def indexed_layers(stage: Stage) -> Iterator[tuple[int, nn.Module]]:
    """(global index, layer) of the layers with weights on this stage; the tied embedding is layer 0 on both its stages."""
    if _TIE in stage.tied_modules:
        yield 0, stage.tied_modules[_TIE]
    for name, layer in stage.named_children():
        if name.isdigit():
            yield int(name), layer


def _stage_layer(spec: LayerSpec) -> StageLayer:
    if not spec.tied:
        return StageLayer(spec.module, **spec.arguments)
    tied_weights = ["word_embeddings.weight"]
    return TiedLayerSpec(_TIE, spec.module, forward_fn=spec.forward, tied_weight_attr=tied_weights, **spec.arguments)


def time_instructions(engine: PipelineEngine, timers: Timers) -> None:
    """Have the engine count what it does as parts of a step."""

    def timed(part: str, execute: Callable[..., None]) -> Callable[..., None]:
        def run(engine: PipelineEngine, **arguments) -> None:
            with timers.part(part):
                execute(engine, **arguments)

        return run

    engine._INSTRUCTION_MAP = {kind: timed(_PARTS[kind], execute) for kind, execute in engine._INSTRUCTION_MAP.items()}
