"""Checks that look at the world around a run: files, folders, devices, keys in the environment.

In a dry run what is missing is a note with the command that makes it; at a launch it is a complaint.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

from neox.config.draft import Broken, Draft
from neox.config.hosts import FORM
from neox.config.resolve import PATH_KEYS, SAMPLE_DATA, SAMPLE_MERGES, SAMPLE_VOCAB, Surroundings

SAMPLE_FILES = (SAMPLE_VOCAB, SAMPLE_MERGES, f"{SAMPLE_DATA}.bin", f"{SAMPLE_DATA}.idx")
ROOT = Path(__file__).resolve().parents[2]
TOKEN_FILES = re.compile(r"(?P<prefix>.+)_(?P<key>[^_/]+?)(?:_label)?_document")


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
        mend = _in_our_folder(missing[0]) or f"make it with: {tool('prepare_data.py')} shakespeare"
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
                yield key, _missing_data(config, prefix, missing)


def _missing_data(config: Any, prefix: str, missing: list[str]) -> str:
    path = Path(prefix)
    if path.suffix in (".bin", ".idx"):
        return f"{prefix} is a prefix and a suffix: leave out {path.suffix}"
    if path.is_file():
        prefix = str(path.with_suffix(""))
        command = _preprocess_command(config, f"{prefix}_text_document", str(path))
        return f"{path} holds no tokens; make them with: {command}; and give {prefix}_text_document"
    # the user gave what --output-prefix was
    for index in sorted(path.parent.glob(f"{escape(path.name)}_*document.idx")):
        return f"{' and '.join(missing)} not found; did you mean {index.with_suffix('')}?"
    mend = _in_our_folder(missing[0]) or f"make them with: {_preprocess_command(config, prefix)}"
    return f"{' and '.join(missing)} not found; {mend}"


def _in_our_folder(name: str) -> str:
    """What to do where a file is below the software's own folder, and the user is in another one."""
    return f"start from {ROOT}, where they are" if (ROOT / name).exists() else ""


def _preprocess_command(config: Any, prefix: str, text: str = "FILE") -> str:
    """The command that makes these token files of a text by the tokenizer of the run."""
    tokenizer, name = config.tokenizer, TOKEN_FILES.fullmatch(prefix)
    words = [tool("preprocess_data.py"), f"--input {text} --output-prefix", name["prefix"] if name else prefix]
    if name and name["key"] != "text":
        labelled = any(getattr(config.data, key) for key in PATH_KEYS if "_label_" in key)
        words.append(f"--{'chat-key' if labelled else 'jsonl-keys'} {name['key']}")
    words.append(f"--tokenizer-type {tokenizer.tokenizer_type}")
    words += [f"--vocab-file {tokenizer.vocab_file}"] if tokenizer.vocab_file else []
    words += [f"--merge-file {tokenizer.merge_file}"] if tokenizer.merge_file else []
    return " ".join([*words, "--append-eod"])


def tool(name: str) -> str:
    """How a script of tools/ is started from the folder that the user is in."""
    script = ROOT / "tools" / name
    return f"python {script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script}"


def files_of_tokenizer(config: Any) -> Iterator[tuple[str, str]]:
    """The tokenizer's files (or folder) are there; the vocabulary of tiktoken is a name, not a file."""
    tokenizer = config.tokenizer
    if tokenizer.tokenizer_type in ("TiktokenTokenizer", "CharLevelTokenizer"):
        return
    for key in ("vocab_file", "merge_file"):
        name = getattr(tokenizer, key)
        if name is not None and name not in SAMPLE_FILES and not Path(name).exists():
            yield key, f"{name} is not there; {_in_our_folder(name) or 'correct the path'}"


def checkpoint_to_begin_with(config: Any, around: Surroundings) -> Iterator[tuple[str, str]]:
    """The folder that the weights come from has a checkpoint, and one of ours. Training asks `load` where `save` has none."""
    save, load = config.checkpoint.save, config.checkpoint.load
    if around.generates:
        key, name = ("save", save) if load is None else ("load", load)
    elif around.trains:
        key, name = ("save", save) if load in (None, save) or (save and _steps(save)) else ("load", load)
    else:
        return
    if name is None or "://" in name:
        return
    steps = _steps(name)
    if steps and not any((step / "manifest.json").is_file() for step in steps):
        if any(next(step.glob("*model_states.pt"), None) for step in steps):
            command = f"{tool('convert_neox.py')} --checkpoint {steps[-1]} --config ITS_FILES.yml --output CKPT"
            yield key, f"{name} holds checkpoints of gpt-neox; bring one in with: {command}"
    elif not steps and (key == "load" or around.generates):
        yield key, _no_checkpoint(name)


def _steps(name: str) -> list[Path]:
    return sorted(Path(name).glob("global_step[0-9]*"))


def _no_checkpoint(name: str) -> str:
    """What a folder without checkpoints is, and what to give instead."""
    path = Path(name)
    if not path.is_dir():
        return f"there is no folder {name}: train first, or correct the path"
    if (path / "manifest.json").is_file():
        return f"{name} is one step of a run: give the folder that it is in, {path.parent}, of which the newest step is taken"
    if (path / "config.json").is_file():
        command = f"{tool('convert_hf.py')} import --hf {name} --output CKPT"
        return f"{name} is a folder of transformers; import it first with: {command}"
    return f"{name} holds no checkpoint (no folder global_step<N>): train first, or correct the path"


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
