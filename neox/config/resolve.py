"""Fill in what the user left open: processes, batch sizes, lengths, the precision, the sample data set.

Each derivation is a pure function of the configuration. Nothing is derived anywhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from neox.config.draft import Draft, Refusal
from neox.config.epochs import epochs_in_steps
from neox.config.errors import ConfigError
from neox.config.hosts import Host, hosts_of_run
from neox.config.sections import DataConfig, GenerationConfig

SAMPLE_DATA = "data/shakespeare_text_document"
SAMPLE_TOKENIZER = "GPT2BPETokenizer"
SAMPLE_VOCAB, SAMPLE_MERGES = "data/gpt2-vocab.json", "data/gpt2-merges.txt"
HOST_KEYS = ("hostfile", "include", "exclude", "num_nodes", "num_gpus")
PATH_KEYS = tuple(key for key in DataConfig.model_fields if key.endswith("_data_paths"))
DATA_KEYS = ("data_path", *(key for key in PATH_KEYS if "_label_" not in key))


@dataclass(frozen=True)
class Surroundings:
    """What resolving and checking ask of the world around the run."""

    script: str = "train.py"
    dry_run: bool = False
    devices: int = 0  # CUDA devices of this machine
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def generates(self) -> bool:
        """Whether the script only generates text, on one process."""
        return Path(self.script).name in ("generate.py", "serve.py")

    @property
    def serves(self) -> bool:
        """Whether the script generates what others ask for."""
        return Path(self.script).name == "serve.py"

    @property
    def trains(self) -> bool:
        """Whether the script trains, so that batches, data and steps matter."""
        return Path(self.script).name == "train.py"


def cuda_devices(environ: Mapping[str, str] = os.environ) -> int:
    """CUDA devices that a process would see, counted without torch."""
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    present = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if visible is None:
        return present
    names = [name.strip() for name in visible.split(",")]
    chosen = names[: names.index("-1")] if "-1" in names else names
    return min(present, len([name for name in chosen if name and name != "NoDevFiles"]))


def resolve(draft: Draft, around: Surroundings) -> None:
    """Fill the open keys of the draft; what cannot be filled becomes a complaint."""
    _one_process(draft, around)
    _smallest_layout(draft, around)
    draft.derive("global_num_gpus num_gpus num_nodes", lambda config: processes(config, around, draft.hosts))
    draft.derive("seq_length", sequence_length)
    draft.derive("precision", precision)
    batch_keys = "train_batch_size train_micro_batch_size_per_gpu gradient_accumulation_steps"
    draft.derive(batch_keys, batch_triangle if around.trains else single_batch)
    _pipeline_zero(draft)
    _sample_data(draft, around)
    if around.trains:
        _epochs(draft)
    draft.derive("lr_decay_iters lr_decay_fraction", decay_steps)
    _backend(draft, around)


def _one_process(draft: Draft, around: Surroundings) -> None:
    """generate.py and serve.py run on one process, whatever layout their checkpoint was trained with."""
    if not around.generates:
        return
    layout = {
        "model_parallel_size": 1,
        "pipe_parallel_size": 0,
        "sequence_parallel": False,
        "moe_expert_parallel_size": 1,
        "global_num_gpus": 1,
    }
    launch = {"num_gpus": 1, "num_nodes": 1}
    view = draft.config.parallel
    aside = [key for key in layout if getattr(view, key) not in (layout[key], None) and key in draft.given]
    aside += [key for key in launch if getattr(draft.config.launch, key) not in (1, -1, None) and key in draft.given]
    if aside:
        draft.notes.append(f"{Path(around.script).name} runs on one process: {', '.join(aside)} set aside")
    told = [key for key in GenerationConfig.model_fields if key in draft.given and key != "generation_batch_size"]
    if around.serves and told:
        draft.notes.append(f"serve.py is told by each request: {', '.join(told)} set aside")
    draft.config = draft.config.model_copy(
        update={
            "parallel": draft.config.parallel.model_copy(update=layout),
            "launch": draft.config.launch.model_copy(update=launch),
        }
    )


def _smallest_layout(draft: Draft, around: Surroundings) -> None:
    """A dry run where no number of processes is given, on a machine with too few GPUs for one replica, plans for one replica."""
    unknown = {"num_gpus", "num_nodes", "global_num_gpus"} & (draft.given | draft.broken)
    hosts_tell = draft.config.launch.launcher != "local"
    if not around.dry_run or unknown or hosts_tell or draft.broken & {"model_parallel_size", "pipe_parallel_size"}:
        return
    replica = draft.config.parallel.tensor_size * draft.config.parallel.pipe_size
    if max(1, around.devices) < replica:
        draft.notes.append(f"num_gpus is not given: planned for one replica, {replica} processes")
        draft.derive("global_num_gpus", lambda _: {"global_num_gpus": replica})


def processes(config: Any, around: Surroundings, hosts: list[Host]) -> dict[str, Any]:
    """The number of processes: num_gpus on this machine, or the slots of the hosts, which are added to `hosts`."""
    per_node, in_all = config.launch.num_gpus, config.parallel.global_num_gpus
    if config.launch.launcher == "local":
        nodes = config.launch.num_nodes
        if nodes not in (-1, 1):
            sentence = f"{nodes} machines, but launcher: local starts processes on this machine only"
            raise Refusal("num_nodes", f"{sentence}; use slurm, pdsh, openmpi, mpich or torchrun")
        if per_node is not None and in_all is not None and per_node != in_all:
            sentence = f"global_num_gpus {in_all} is not num_gpus {per_node} on one machine: give one of them"
            raise Refusal("global_num_gpus num_gpus", sentence)
        world_size = in_all or per_node or max(1, around.devices)
        return {"global_num_gpus": world_size, "num_gpus": world_size, "num_nodes": 1}
    try:
        hosts += hosts_of_run(config, around.devices, around.dry_run, around.environ)
    except ConfigError as error:
        key, _, sentence = error.complaints[0].partition(": ")
        about_a_key = key in HOST_KEYS
        raise Refusal(
            key if about_a_key else "hostfile", sentence if about_a_key else "; ".join(error.complaints)
        ) from None
    world_size = sum(len(host.slots) for host in hosts)
    if in_all not in (None, world_size):
        raise Refusal("global_num_gpus", f"{in_all} processes, but the hosts of this run have {world_size} slots")
    return {"global_num_gpus": world_size, "num_gpus": len(hosts[0].slots), "num_nodes": len(hosts)}


def sequence_length(config: Any) -> dict[str, Any]:
    """Samples are as long as the positions reach, where seq_length is not given."""
    return {"seq_length": config.model.seq_length or config.model.max_position_embeddings}


def precision(config: Any) -> dict[str, Any]:
    """One word from precision, fp16.enabled and bf16.enabled, which must agree."""
    section = config.precision
    fp16 = None if section.fp16 is None else section.fp16.enabled
    bf16 = None if section.bf16 is None else section.bf16.enabled
    if fp16 and bf16:
        raise Refusal("bf16 fp16", "fp16 and bf16 are both enabled: choose one")
    from_dicts = "fp16" if fp16 else "bf16" if bf16 else None
    word = section.precision
    if word is not None and from_dicts is not None and word != from_dicts:
        raise Refusal("precision", f"precision is {word}, but {from_dicts}.enabled is true: give one of them")
    if (word == "fp16" and fp16 is False) or (word == "bf16" and bf16 is False):
        raise Refusal("precision", f"precision is {word}, but {word}.enabled is false: give one of them")
    return {"precision": word or from_dicts or "fp32"}


def batch_triangle(config: Any) -> dict[str, Any]:
    """train_batch_size = train_micro_batch_size_per_gpu * gradient_accumulation_steps * replicas: two give the third."""
    replicas = data_replicas(config)
    batch = config.batch
    total, micro, steps = (
        batch.train_batch_size,
        batch.train_micro_batch_size_per_gpu,
        batch.gradient_accumulation_steps,
    )
    if total is None:
        if micro is None:
            keys = "train_micro_batch_size_per_gpu train_batch_size gradient_accumulation_steps"
            raise Refusal(keys, "is missing: give train_micro_batch_size_per_gpu or train_batch_size")
        steps = steps or 1
        total = micro * steps * replicas
    elif micro is None:
        micro = _quotient(total, {"gradient_accumulation_steps": steps or 1, "replicas": replicas})
        steps = steps or 1
    elif steps is None:
        steps = _quotient(total, {"train_micro_batch_size_per_gpu": micro, "replicas": replicas})
    if total != micro * steps * replicas:
        raise Refusal(
            "train_batch_size",
            f"{total} is not train_micro_batch_size_per_gpu {micro} * gradient_accumulation_steps {steps} * "
            f"{replicas} replicas = {micro * steps * replicas}: leave one of the three out, and it is worked out",
        )
    return {
        "train_batch_size": total,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": steps,
    }


def _quotient(total: int, factors: Mapping[str, int]) -> int:
    product = 1
    for factor in factors.values():
        product *= factor
    if total % product:
        words = " * ".join(
            f"{value} {name}" if name == "replicas" else f"{name} {value}" for name, value in factors.items()
        )
        near = max(product, total // product * product)
        raise Refusal("train_batch_size", f"{total} is not a multiple of {words} = {product}; {near} would be")
    return total // product


def data_replicas(config: Any) -> int:
    """Data-parallel replicas: processes / (model_parallel_size * pipe_parallel_size), which must be whole."""
    parallel = config.parallel
    world_size, tensor, pipe = parallel.world_size, parallel.tensor_size, parallel.pipe_size
    if world_size % (tensor * pipe):
        raise Refusal(
            "model_parallel_size pipe_parallel_size num_gpus global_num_gpus",
            f"{world_size} processes cannot be divided into model_parallel_size {tensor} * pipe_parallel_size {pipe} = "
            f"{tensor * pipe}: give num_gpus a multiple of {tensor * pipe}, or lower them",
        )
    return world_size // (tensor * pipe)


def single_batch(config: Any) -> dict[str, Any]:
    """Outside training a batch is what one process takes at a time."""
    replicas = data_replicas(config)
    micro = config.batch.train_micro_batch_size_per_gpu or 1
    return {
        "train_batch_size": micro * replicas,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": 1,
    }


def _epochs(draft: Draft) -> None:
    """train_epochs becomes train_iters; from here on there is only one way to say where a run ends."""
    epochs = draft.config.batch.train_epochs
    draft.derive("train_iters train_epochs", steps_of_epochs)
    if epochs is not None and "train_iters" not in draft.broken:
        draft.notes.append(f"train_epochs {epochs}: {draft.config.batch.train_iters:,} steps")


def steps_of_epochs(config: Any) -> dict[str, Any]:
    """The steps of train_epochs, which follow from the size of the training data."""
    batch = config.batch
    if batch.train_epochs is None:
        return {}
    if batch.train_iters is not None:
        raise Refusal("train_epochs", "train_iters is given too: give one of them")
    try:
        return {"train_iters": epochs_in_steps(config), "train_epochs": None}
    except ConfigError as error:
        raise Refusal("train_epochs", f"the steps follow from the data, and {error}") from None


def decay_steps(config: Any) -> dict[str, Any]:
    """The step at which the learning rate reaches min_lr."""
    optimization, steps = config.optimization, config.batch.train_iters
    if optimization.lr_decay_iters is not None and optimization.lr_decay_fraction is not None:
        raise Refusal("lr_decay_fraction", "lr_decay_iters is given too: give one of them")
    if optimization.lr_decay_iters is not None:
        return {}
    if steps is None:
        if optimization.lr_decay_fraction is not None:
            raise Refusal("lr_decay_fraction", "is a share of train_iters, which is not given")
        return {}
    share = optimization.lr_decay_fraction or 1.0
    return {"lr_decay_iters": max(1, round(steps * share)), "lr_decay_fraction": None}


def _pipeline_zero(draft: Draft) -> None:
    """A pipeline runs at ZeRO 1 at least: at 0 DeepSpeed tells no gradient norm there and clips tied embeddings wrongly."""
    zero = draft.config.optimization.zero_optimization
    known = not draft.broken & {"pipe_parallel_size", "zero_optimization", "zero_optimization.stage"}
    if known and zero.stage == 0 and draft.config.parallel.pipe_size > 1:
        draft.notes.append("zero_optimization.stage is raised from 0 to 1: a pipeline needs it")
        raised = zero.model_copy(update={"stage": 1})
        draft.derive("zero_optimization", lambda _: {"zero_optimization": raised})


def _sample_data(draft: Draft, around: Surroundings) -> None:
    """Where no data is named, take the sample data set and the tokenizer that it was written with."""
    if draft.given.intersection(DATA_KEYS) or draft.broken.intersection(DATA_KEYS):
        return
    updates: dict[str, Any] = {"data_path": SAMPLE_DATA} if around.trains else {}
    tokenizer = draft.config.tokenizer
    # outside training a tokenizer that needs no files is taken as it is
    complete = (
        not around.trains and "tokenizer_type" in draft.given and tokenizer.tokenizer_type == "CharLevelTokenizer"
    )
    given = draft.given | draft.broken
    if not complete and not {"vocab_file", "merge_file"} & given and "tokenizer_type" not in draft.broken:
        instead = f" instead of {tokenizer.tokenizer_type}" if tokenizer.tokenizer_type != SAMPLE_TOKENIZER else ""
        updates |= {"tokenizer_type": SAMPLE_TOKENIZER, "vocab_file": SAMPLE_VOCAB, "merge_file": SAMPLE_MERGES}
        words = f"{SAMPLE_TOKENIZER} of {SAMPLE_VOCAB}{instead}"
        draft.notes.append(
            f"no data keys are given: training on the sample data set {SAMPLE_DATA} with {words}"
            if around.trains
            else f"no data and tokenizer keys are given: using {words}"
        )
    elif around.trains and {tokenizer.vocab_file, tokenizer.merge_file} <= {SAMPLE_VOCAB, SAMPLE_MERGES}:
        draft.notes.append(f"no data keys are given: training on the sample data set {SAMPLE_DATA}")
    elif around.trains and not around.dry_run:
        sentence = (
            f"is missing: the sample data set is written with {SAMPLE_TOKENIZER}, not with the tokenizer given here"
        )
        draft.complain("data_path", sentence)
    draft.derive(" ".join(updates), lambda _: updates)


def _backend(draft: Draft, around: Surroundings) -> None:
    """nccl needs CUDA: without it the run goes on with gloo, and says so. What other machines have, they know."""
    if draft.config.launch.launcher != "local":
        return
    if draft.config.run.distributed_backend == "nccl" and not around.devices:
        draft.notes.append("distributed_backend: nccl needs CUDA, and this machine shows none: gloo is used")
        draft.derive("distributed_backend", lambda _: {"distributed_backend": "gloo"})
