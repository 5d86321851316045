"""Imported weights in the engine of a layout, in the workers of a group."""

from __future__ import annotations

from pathlib import Path

import yaml

from neox.checkpoint.saver import Saver
from neox.checkpoint.source import Source
from neox.config.flat import to_yaml
from neox.config.read import config_from_values
from neox.config.sections import CheckpointConfig
from neox.parallel.topology import Topology
from neox.training.engine import Engine
from neox.training.pretrain import find_beginning, resume
from support.engines import ROWS, samples


def first_losses(topology: Topology, *, rows: list[tuple[Path, Path]]) -> list[float]:
    """For each (imported folder, folder to save in): load, save what was loaded, and take one step; the loss of the step."""
    losses = []
    for imported, save in rows:
        values = yaml.safe_load((imported / "config.yml").read_text()) | {
            "tokenizer_type": "CharLevelTokenizer",
            "data_path": "unused",  # batches are made here
            "train_batch_size": ROWS,
            "gradient_accumulation_steps": 2,
            "train_iters": 1,
            "num_gpus": topology.world_size,
            "model_parallel_size": topology.tensor_size,
            "pipe_parallel_size": topology.pipe_size,
        }
        config = config_from_values(values)
        engine = Engine(config, topology, config.model.vocab_size, from_checkpoint=True)
        with Source("load", config.checkpoint.load, topology) as source:
            beginning = find_beginning(config.checkpoint, source, topology)
            progress = resume(engine, beginning, [], config.checkpoint, topology)
        section = CheckpointConfig(save=str(save))
        Saver(engine.state, section, to_yaml(config), on_failure=lambda: None, uploader=None).save(progress)
        halves = (half for batch in samples() for half in _halved(batch))
        losses.append(float(engine.train_step(halves, 1e-3).loss))
    return losses


def _halved(batch):
    """The batch as two micro-batches."""
    half = ROWS // 2
    for rows in (slice(0, half), slice(half, ROWS)):
        yield type(batch)(batch.tokens[rows], batch.labels[rows], batch.loss_mask[rows])
