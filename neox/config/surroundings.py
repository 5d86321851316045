"""Checks that look at the world around a run: files, folders, devices, keys in the environment.

In a dry run what is missing is a note with the command that makes it; at a launch it is a complaint.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from neox.config.draft import Broken, Draft
from neox.config.hosts import FORM
from neox.config.mends import is_of_gptneox, missing_data, no_checkpoint, of_our_folder, other_shape, steps_in, tool
from neox.config.resolve import PATH_KEYS, SAMPLE_DATA, SAMPLE_MERGES, SAMPLE_VOCAB, Surroundings

SAMPLE_FILES = (SAMPLE_VOCAB, SAMPLE_MERGES, f"{SAMPLE_DATA}.bin", f"{SAMPLE_DATA}.idx")


def look_around(draft: Draft, around: Surroundings, environ: Mapping[str, str] = os.environ) -> None:
    """Add what the surroundings say to the draft's complaints and notes."""
    view = draft.view()
    findings = [
        devices_suffice(view, around),
        sample_files(view),
        files_of_tokenizer(view),
        checkpoint_to_begin_with(view, around),
    ]
    if around.trains:
        findings += [data_files(view), folder_to_save(view)]
    for finding in findings:
        try:
            for keys, sentence in finding:
                if around.dry_run:
                    draft.notes.append(f"{keys.split()[0]}: {sentence}")
                else:
                    draft.complain(keys, sentence)
        except Broken:
            continue
    try:
        draft.notes += notes_on_hosts(view)
        draft.notes += notes_on_wandb(view, environ) if around.trains else []
    except Broken:
        pass


def devices_suffice(config: Any, around: Surroundings) -> Iterator[tuple[str, str]]:
    """Each process of a machine with CUDA has a device of its own."""
    wanted = config.launch.num_gpus
    if config.launch.launcher != "local":
        return
    if config.run.distributed_backend != "gloo" and 0 < around.devices < wanted:
        yield (
            "num_gpus global_num_gpus",
            f"{wanted} processes, but this machine shows {around.devices} CUDA devices; "
            "distributed_backend: gloo with CUDA_VISIBLE_DEVICES= trains on the CPU",
        )


def sample_files(config: Any) -> Iterator[tuple[str, str]]:
    """Whatever of the sample data set and its tokenizer is used is there; one complaint for all of it."""
    data, tokenizer = config.data, config.tokenizer
    used = [tokenizer.vocab_file, tokenizer.merge_file]
    used += [f"{SAMPLE_DATA}.bin", f"{SAMPLE_DATA}.idx"] if data.data_path == SAMPLE_DATA else []
    missing = [name for name in used if name in SAMPLE_FILES and not Path(name).is_file()]
    if missing:
        keys = "data_path" if data.data_path == SAMPLE_DATA else "vocab_file"
        mend = of_our_folder(missing[0]) or f"make it with: {tool('prepare_data.py')} shakespeare"
        yield keys, f"not there yet: {', '.join(missing)}; {mend}"


def data_files(config: Any) -> Iterator[tuple[str, str]]:
    """The .bin and .idx files of every prefix are there."""
    data = config.data
    given = {"data_path": [] if data.data_path in (None, SAMPLE_DATA) else [data.data_path]}
    given |= {key: getattr(data, key) or [] for key in PATH_KEYS}
    for key, prefixes in given.items():
        for prefix in prefixes:
            missing = [f"{prefix}{suffix}" for suffix in (".bin", ".idx") if not Path(prefix + suffix).is_file()]
            if missing:
                yield key, missing_data(config, prefix, missing)


def files_of_tokenizer(config: Any) -> Iterator[tuple[str, str]]:
    """The tokenizer's files (or folder) are there; the vocabulary of tiktoken is a name, not a file."""
    tokenizer = config.tokenizer
    if tokenizer.tokenizer_type in ("TiktokenTokenizer", "CharLevelTokenizer"):
        return
    for key in ("vocab_file", "merge_file"):
        name = getattr(tokenizer, key)
        if name is not None and name not in SAMPLE_FILES and not Path(name).exists():
            yield key, f"{name} is not there; {of_our_folder(name) or 'correct the path'}"


def begins_elsewhere(checkpoint: Any) -> bool:
    """Whether `load` is another place than `save`, however the two are spelled."""
    save, load = checkpoint.save, checkpoint.load
    if load is None or save is None or "://" in load:
        return load is not None
    return Path(load).resolve() != Path(save).resolve()


def checkpoint_to_begin_with(config: Any, around: Surroundings) -> Iterator[tuple[str, str]]:
    """The folder that the weights come from has a checkpoint, and one of ours. Training asks `load` where `save` has none."""
    save, load = config.checkpoint.save, config.checkpoint.load
    if around.generates:
        key, name = ("save", save) if load is None else ("load", load)
    elif around.trains:
        begun = not begins_elsewhere(config.checkpoint) or (save and steps_in(save))
        key, name = ("save", save) if begun else ("load", load)
    else:
        return
    if name is None or "://" in name:
        return
    steps = steps_in(name)
    if not steps and (key == "load" or around.generates):
        yield key, no_checkpoint(name)
    elif steps and is_of_gptneox(steps[-1]):
        command = f"{tool('convert_neox.py')} --checkpoint {steps[-1]} --config ITS_FILES.yml --output CKPT"
        yield key, f"{name} holds checkpoints of gpt-neox; bring one in with: {command}"
    elif steps and (difference := other_shape(config, steps[-1])):
        yield key, f"{difference}; give another folder, or the keys of that model"


def folder_to_save(config: Any) -> Iterator[tuple[str, str]]:
    """Folders that the run writes to can be written, or made."""
    for key, name in (
        ("save", config.checkpoint.save),
        ("log_dir", config.monitor.log_dir),
        ("tensorboard_dir", config.monitor.tensorboard_dir),
    ):
        if name is None:
            continue
        nearest = _nearest(name)
        if not nearest.is_dir():
            yield key, f"{nearest} is a file, not a folder"
        elif not os.access(nearest, os.W_OK | os.X_OK):
            yield key, f"{nearest} cannot be written to"


def free_bytes(name: str) -> int:
    """Bytes that can still be written to the disk on which a folder is, or would be made."""
    return shutil.disk_usage(_nearest(name)).free


def memory_bytes() -> int:
    """Memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _nearest(name: str) -> Path:
    """The folder, or the nearest above it that is there."""
    path = Path(name).absolute()
    return next(folder for folder in (path, *path.parents) if folder.exists())


def notes_on_hosts(config: Any) -> Iterator[str]:
    """A hostfile, there or not, is not asked in a launch on this machine; in others a dry run does without an absent one."""
    hostfile, launcher = config.launch.hostfile, config.launch.launcher
    if launcher in ("pdsh", "openmpi", "mpich") and (hostfile is None or not Path(hostfile).is_file()):
        yield f"hostfile: {hostfile or 'none'} is not there: planned for num_nodes x num_gpus; {FORM}"
    if hostfile is not None and launcher in ("local", "torchrun"):
        state = "is not used" if Path(hostfile).is_file() else "is not there"
        yield f"hostfile {hostfile} {state}: launcher: {launcher} starts processes on this machine only"


def notes_on_wandb(config: Any, environ: Mapping[str, str]) -> Iterator[str]:
    """Weights & Biases online wants a key."""
    monitor = config.monitor
    if monitor.use_wandb and monitor.wandb_mode == "online" and not environ.get("WANDB_API_KEY"):
        yield "wandb_mode is online, but WANDB_API_KEY is not in the environment: export it, or run `wandb login` first"
