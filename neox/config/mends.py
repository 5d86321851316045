"""What to do where a file or folder of a run is not there, or is something else: sentences with the command to type."""

from __future__ import annotations

import hashlib
import json
import re
from glob import escape
from pathlib import Path
from typing import Any

from neox.config.load import ROOT, load_text
from neox.config.resolve import PATH_KEYS
from neox.config.yaml_nodes import plain_value

TOKEN_FILES = re.compile(r"(?P<prefix>.+?)_(?P<key>[^_/]+)(?:_label)?_document")
SHAPE_KEYS = ("num_layers", "hidden_size", "num_attention_heads")


def tool(name: str) -> str:
    """How a script of tools/ is started from the folder that the user is in."""
    script = ROOT / "tools" / name
    return f"python {script.relative_to(Path.cwd()) if script.is_relative_to(Path.cwd()) else script}"


def of_our_folder(name: str) -> str:
    """What to do where a file is below the software's own folder, and the user is in another one; else nothing."""
    return f"start from {ROOT}: it is there" if (ROOT / name).exists() else ""


def missing_data(config: Any, prefix: str, missing: list[str]) -> str:
    """Which token files of a prefix are missing, and what was meant, or how to make them."""
    path, absent = Path(prefix), f"{' and '.join(missing)} not found"
    if path.suffix in (".bin", ".idx"):
        return f"{prefix} is a prefix and a suffix: leave out {path.suffix}"
    if path.is_file():
        made = f"{path.with_suffix('')}_text_document"
        return f"{path} holds no tokens; make them with: {_preprocess(config, made, prefix)}; and give {made}"
    # the user gave what --output-prefix was
    if tokenized := sorted(path.parent.glob(f"{escape(path.name)}_*document.idx")):
        return f"{absent}; did you mean {tokenized[0].with_suffix('')}?"
    mend = of_our_folder(missing[0]) or f"make them with: {_preprocess(config, prefix, 'FILE')}"
    return f"{absent}; {mend}"


def _preprocess(config: Any, prefix: str, text: str) -> str:
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


def steps_in(name: str) -> list[Path]:
    """The folders of checkpoints in a folder, ours or gpt-neox's, the newest last."""
    return sorted(Path(name).glob("global_step[0-9]*"), key=lambda path: (len(path.name), path.name))


def is_of_gptneox(step: Path) -> bool:
    """Whether gpt-neox has written a checkpoint."""
    return not (step / "manifest.json").is_file() and any(step.glob("*model_states.pt"))


def other_shape(config: Any, step: Path) -> str:
    """How the model of a checkpoint is otherwise by its own config.yml, before any weight is read; nothing where it is not.

    Another number of heads would fit the shapes of all weights, and compute something else. A damaged checkpoint is left to the run,
    which passes over it.
    """
    try:
        text = (step / "config.yml").read_bytes()
        _, sha256 = json.loads((step / "manifest.json").read_bytes())["files"]["config.yml"]
        if hashlib.sha256(text).hexdigest() != sha256:
            return ""
        entries = load_text(text.decode()).entries
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    there = {key: plain_value(entries[key]) for key in SHAPE_KEYS if key in entries}
    differences = [
        f"{key} is {value} there and {getattr(config.model, key)} here"
        for key, value in there.items()
        if value != getattr(config.model, key)
    ]
    return f"{step} is of another model: {', '.join(differences)}" if differences else ""


def no_checkpoint(name: str) -> str:
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
