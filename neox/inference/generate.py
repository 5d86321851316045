"""Generate text from a checkpoint: builds each part from its own section of the config. One process, weights only."""

from __future__ import annotations

import sys

from neox.config.sections import Config
from neox.inference.generator import Generator
from neox.inference.load import load
from neox.inference.text import TextGenerator, write_texts
from neox.parallel import topology as parallel


def generate(config: Config) -> None:
    """Write texts as the config says. Raises ConfigError or CheckpointError."""
    batch, tokenizer = load(config)
    texts = TextGenerator(Generator(batch), tokenizer, config.generation, seed=config.run.seed)
    write_texts(texts, config.generation, sys.stdin, sys.stdout)
    parallel.shutdown()
