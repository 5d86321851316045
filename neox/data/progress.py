"""Show how far a preprocessing job is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from neox.data.manifest import read_manifest
from neox.data.preprocess import PreprocessResult, Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def shown(console: Console) -> Iterator[Callable[[Progress], None]]:
    """The function to give to `preprocess` as its `report`, while the display stands."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (BarColumn(), TextColumn("{task.percentage:>3.0f}%  {task.fields[numbers]}"), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task("", total=None, numbers="")
        yield lambda progress: bar.update(
            task, total=progress.total_bytes or None, completed=progress.read_bytes, numbers=numbers(progress)
        )


class _Lines:
    """A plain line every few seconds."""

    def __init__(self, console: Console):
        self.console = console
        self.last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        if time.monotonic() - self.last >= SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            share = f"{progress.read_bytes / progress.total_bytes:.0%}  " if progress.total_bytes else ""
            self.console.print(f"{share}{numbers(progress)}", highlight=False)


def numbers(progress: Progress) -> str:
    """Documents, tokens and speed in words."""
    seconds = max(progress.seconds, 1e-6)
    return (
        f"{progress.documents:,} documents, {progress.tokens:,} tokens, {progress.text_bytes / 1e6:,.1f} MB of text, "
        f"{progress.session_text_bytes / 1e6 / seconds:.2f} MB/s, {progress.session_tokens / seconds:,.0f} tokens/s"
    )


def summary(result: PreprocessResult) -> list[str]:
    """What a job did, a sentence a line."""
    written = zip(result.prefixes, result.dtypes, strict=True)
    lines = [f"{prefix}.bin, .idx and .json written ({dtype.name})" for prefix, dtype in written]
    progress = result.progress
    lines.append(f"{numbers(progress)}, {progress.text_bytes / max(progress.tokens, 1):.2f} bytes a token")
    # the labels of chats are counted with their tokens
    counted = result.prefixes[: max((len(share.tokens) for share in result.tally.subsets.values()), default=0)]
    for column, prefix in enumerate(counted):
        counts = {
            name: {"documents": share.documents, "text_bytes": share.text_bytes[column], "tokens": share.tokens[column]}
            for name, share in result.tally.subsets.items()
        }
        lines.extend(_subsets(counts, prefix if len(counted) > 1 else None))
    if result.tally.empty_documents:
        lines.append(f"{result.tally.empty_documents:,} empty documents left out")
    if result.left_out:
        lines.append(f"{len(result.left_out):,} files left out for their suffix, the first {result.left_out[0]}")
    if result.tally.bad_records:
        lines.append(f"{result.tally.bad_records:,} bad records left out, the first of them:")
        lines.extend(f"  {complaint}" for complaint in result.tally.complaints)
    return lines


def joined_summary(prefixes: list[str]) -> list[str]:
    """What a job that was done in shards wrote, from its manifests, a sentence a line."""
    lines = []
    for prefix in prefixes:
        found = read_manifest(prefix)
        lines.append(
            f"{prefix}.bin, .idx and .json written ({found['dtype']}): {found['documents']:,} documents, {found['tokens']:,} tokens"
        )
        lines.extend(_subsets(found["subsets"], None))
        lines.extend(
            f"{found[key]:,} {key.replace('_', ' ')} left out"
            for key in ("empty_documents", "bad_records")
            if found[key]
        )
    return lines


def _subsets(subsets: dict[str, dict[str, int]], title: str | None) -> list[str]:
    """The counts of each subset as a manifest has them, that with the most tokens first; nothing where no record named one."""
    if not any(subsets):
        return []
    total = sum(share["tokens"] for share in subsets.values())
    lines = [] if title is None else [f"{title}:"]
    for name, share in sorted(subsets.items(), key=lambda item: -item[1]["tokens"]):
        lines.append(
            f"  {share['tokens'] / max(total, 1):6.1%}  {share['tokens']:,} tokens of {share['documents']:,} documents, "
            f"{share['text_bytes'] / max(share['tokens'], 1):.2f} bytes a token, in {name or '(no name)'}"
        )
    return lines
