"""The last step of writing a checkpoint, whoever made its state files: index, progress, config, manifest, `latest`.

Knows nothing about optimizers or where the state came from.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from neox.checkpoint import layout
from neox.checkpoint.layout import FileEntry
from neox.checkpoint.tensors import INDEX, Weight, encode_index
from neox.data.files import write_durably

PROGRESS = "progress.json"
CONFIG = "config.yml"


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    iteration: int = 0  # optimizer steps done
    consumed_samples: int = 0  # the position in the data
    consumed_tokens: int = 0
    skipped_steps: int = 0  # steps whose update was left out
    rollbacks: int = 0  # times that the run went back to a checkpoint
    usual_loss: float | None = None  # what a loss spike is measured against; None where nobody asks
    wandb_run_id: str | None = None
    data: Sequence[Mapping[str, Any]] | None = None  # the fingerprint of what was read; None where nobody knows it


@dataclass(frozen=True)
class Counters:
    """What the optimizer counts."""

    optimizer_steps: int  # updates it has made
    loss_scaler: Mapping[str, Any]  # numbers of DeepSpeed's loss scaler that change during a run


def read_progress(folder: Path) -> tuple[Progress, Counters]:
    """What progress.json of a verified checkpoint says; what older ones did not know is as in the beginning."""
    facts = json.loads((folder / PROGRESS).read_bytes())
    of = {
        kind: {field.name: facts[field.name] for field in fields(kind) if field.name in facts}
        for kind in (Progress, Counters)
    }
    return Progress(**of[Progress]), Counters(**of[Counters])


def publish_state(
    folder: Path,
    progress: Progress,
    counters: Counters,
    *,
    entries: Iterable[FileEntry],
    weights: Mapping[str, Weight],
    moments: Sequence[str],
    config_text: str,
    written_by: Mapping[str, int],
) -> Path:
    """Complete the temporary folder of `progress.iteration`, which holds its state files, and give it its name.

    entries: those files. written_by: the layout of the run, empty where there was none.
    """
    temporary = layout.temporary_folder(folder, progress.iteration)
    entries = list(entries)
    for name, data in {
        INDEX: encode_index(dict(weights), list(moments)),
        PROGRESS: json.dumps({**asdict(progress), **asdict(counters)}, indent=1).encode(),
        CONFIG: config_text.encode(),
    }.items():
        write_durably(temporary / name, data)
        entries.append(layout.file_entry(temporary / name))
    return layout.publish(folder, progress.iteration, entries, written_by)
