"""Generate text from a checkpoint: builds each part from its own section of the config. One process, weights only."""

from __future__ import annotations

import sys

from neox.checkpoint.source import Source
from neox.checkpoint.weights import load_weights
from neox.config.sections import Config
from neox.config.sizes import true_vocab_size
from neox.inference.generator import Generator
from neox.inference.text import TextGenerator, write_texts
from neox.model.dtypes import DTYPES
from neox.model.gpt import GPT
from neox.parallel import topology as parallel
from neox.tokenizer.tokenizer import build_tokenizer


def generate(config: Config) -> None:
    """Write texts as the config says, with the newest weights in `load`, or in `save` where `load` is not given.

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
    generator = Generator(
        model.to(topology.device, DTYPES[config.precision.precision]),
        vocab_size=tokenizer.vocab_size,
        max_positions=config.model.max_position_embeddings,
        eod=tokenizer.eod,
    )
    texts = TextGenerator(generator, tokenizer, config.generation, seed=config.run.seed)
    write_texts(texts, config.generation, sys.stdin, sys.stdout)
    parallel.shutdown()
