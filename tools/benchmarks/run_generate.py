"""The run of `bench generate`: our generation and transformers' of the same weights, in turns, and how fast the memory is read.

Prints the medians as a JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from neox.checkpoint import layout
from neox.checkpoint.publish import Counters, Progress, publish_state
from neox.checkpoint.tensors import WEIGHT, Piece, Weight, write_tensors
from neox.config.flat import to_yaml
from neox.config.sections import Config, TokenizerConfig
from neox.inference.decoding import Batch
from neox.inference.generator import Generator
from neox.inference.sampling import Sampling
from neox.interop.huggingface import export_folder
from neox.model.dtypes import DTYPES
from neox.model.gpt import GPT
from neox.parallel import topology as parallel
from neox.parallel.seeding import seed_everything
from tools.benchmarks.shapes import SHAPES, bench_config

READ_BYTES = 1 << 30  # far beyond what a cache holds
WARMUP_TOKENS = 2
COST = ("seconds", "cpu_seconds")

Generate = Callable[[int], list[list[int]]]  # the ids of so many new tokens of each prompt


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("device", "shape", "precision"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--batch", type=int, nargs="+", required=True)
    for name in ("prompt", "new", "rounds"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    vocab_size = SHAPES[options.shape].vocab_size
    config = bench_config(options.shape, precision=options.precision, device=options.device)
    topology = parallel.initialize(config.parallel, config.run.distributed_backend)
    seed_everything(config.run.seed, topology)
    dtype = DTYPES[options.precision]
    model = GPT(config.model, vocab_size=vocab_size, topology=topology, seed=config.run.seed)
    theirs = _exported(model, config, vocab_size, options.folder, dtype).to(topology.device)
    generator = Generator(
        Batch(
            model.to(topology.device, dtype),
            vocab_size=vocab_size,
            max_positions=config.model.max_position_embeddings,
            eod=None,
        )
    )
    memory = torch.ones(READ_BYTES // 4, device=topology.device)
    rows, read = [], []
    for batch in options.batch:
        prompts = torch.randint(vocab_size, (batch, options.prompt), device=topology.device)
        contestants = {"ours": partial(_ours, generator, prompts), "transformers": partial(_theirs, theirs, prompts)}
        rows.append({"batch": batch, **_contest(contestants, options.new, options.rounds)})
        read += [_read_seconds(memory) for _ in range(options.rounds)]
    parallel.shutdown()
    # a token of any batch reads each weight once; of the embedding only a row
    weights = sum(tensor.numel() for name, tensor in model.named_parameters() if "embeddings" not in name)
    figures = {"read_bytes_per_second": READ_BYTES / median(read), "weight_bytes": weights * dtype.itemsize}
    print(json.dumps({**figures, "rows": rows}))


def _contest(contestants: dict[str, Generate], new: int, rounds: int) -> dict[str, Any]:
    """Medians of what it costs until the first new token, and for each further one; and the share of the texts that are equal."""
    turns: dict[str, list[numpy.ndarray]] = {name: [] for name in contestants}
    texts = {name: generate(WARMUP_TOKENS) for name, generate in contestants.items()}
    for number in range(rounds):
        for name in list(contestants) if number % 2 == 0 else reversed(contestants):
            first, _ = _timed(contestants[name], 1)
            whole, texts[name] = _timed(contestants[name], new)
            turns[name].append(numpy.array([first, (whole - first) / (new - 1)]))
    costs = {name: numpy.median(of, axis=0).tolist() for name, of in turns.items()}
    equal = [ours == theirs for ours, theirs in zip(*texts.values(), strict=True)]
    return {
        "same_texts": sum(equal)
        / len(equal),  # rounding may part two tokens that are nearly tied, in 16 bits above all
        "prompt": {name: dict(zip(COST, first, strict=True)) for name, (first, _) in costs.items()},
        "token": {name: dict(zip(COST, each, strict=True)) for name, (_, each) in costs.items()},
    }


def _timed(generate: Generate, new: int) -> tuple[numpy.ndarray, list[list[int]]]:
    """What it took, as COST names it, and the texts."""
    began = numpy.array([time.perf_counter(), time.process_time()])
    texts = generate(new)  # lists: the device has finished
    return numpy.array([time.perf_counter(), time.process_time()]) - began, texts


def _ours(generator: Generator, prompts: torch.Tensor, new: int) -> list[list[int]]:
    seeds = [0] * len(prompts)
    done = generator.generate(prompts.tolist(), maximum_tokens=new, sampling=Sampling(), seeds=seeds)
    return [completion.ids for completion in done]


@torch.inference_mode()
def _theirs(model: PreTrainedModel, prompts: torch.Tensor, new: int) -> list[list[int]]:
    mask = torch.ones_like(prompts)
    done = model.generate(prompts, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=0)
    return done[:, prompts.shape[1] :].tolist()


def _exported(model: GPT, config: Config, vocab_size: int, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The same weights in transformers, by way of a checkpoint and our exporter."""
    save = folder / "checkpoints"
    temporary, file = layout.start(save, 0), "state_00000.safetensors"
    parameters = {
        f"layers.{number}.{name}": parameter.detach()
        for number, layer in model.indexed_layers()
        for name, parameter in layer.named_parameters()
    }
    entry = write_tensors(
        temporary / file, {f"{WEIGHT}/{name}": parameter.flatten() for name, parameter in parameters.items()}
    )
    weights = {
        name: Weight(tuple(parameter.shape), None, (Piece(file, 0, 1, 0, parameter.numel()),))
        for name, parameter in parameters.items()
    }
    sections = {
        "model": config.model.model_copy(update={"vocab_size": vocab_size}),
        "tokenizer": TokenizerConfig(tokenizer_type="CharLevelTokenizer"),  # transformers has none like it: ids will do
    }
    publish_state(
        save,
        Progress(),
        Counters(optimizer_steps=0, loss_scaler={}),
        entries=[entry],
        weights=weights,
        moments=[],
        config_text=to_yaml(config.model_copy(update=sections)),
        written_by={},
    )
    export_folder(save, folder / "transformers")
    return AutoModelForCausalLM.from_pretrained(folder / "transformers", dtype=dtype).eval()


def _read_seconds(tensor: torch.Tensor) -> float:
    """The time to read a tensor once, with all threads."""
    began = time.perf_counter()
    float(tensor.sum())
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
