"""What generate.py and serve.py begin with: the model of a checkpoint, and its tokenizer. One process, weights only."""

from __future__ import annotations

import sys

from neox.checkpoint.source import Source
from neox.checkpoint.weights import load_weights
from neox.config.sections import Config
from neox.config.sizes import true_vocab_size
from neox.inference.decoding import Batch
from neox.model.dtypes import DTYPES
from neox.model.gpt import GPT
from neox.parallel import topology as parallel
from neox.tokenizer.tokenizer import Tokenizer, build_tokenizer


def load(config: Config) -> tuple[Batch, Tokenizer]:
    """The newest weights in `load`, or in `save` where `load` is not given, ready to continue texts of the tokenizer.

    The checkpoint may come from any layout. Raises ConfigError or CheckpointError.
    """
    key = "load" if config.checkpoint.load else "save"
    topology = parallel.initialize(config.parallel, config.run.distributed_backend)
    tokenizer = build_tokenizer(config.tokenizer)
    vocab_size = true_vocab_size(config.model, tokenizer.vocab_size)
    model = GPT(config.model, vocab_size=vocab_size, topology=topology)
    with Source(key, getattr(config.checkpoint, key), topology) as source:
        load_weights(model, source.checkpoint, topology)
        # standard output is for the texts
        print(f"weights of {source.name}", file=sys.stderr, flush=True)
    batch = Batch(
        model.to(topology.device, DTYPES[config.precision.precision]),
        vocab_size=tokenizer.vocab_size,
        max_positions=config.model.max_position_embeddings,
        eod=tokenizer.eod,
    )
    return batch, tokenizer
