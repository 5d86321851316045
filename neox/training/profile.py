"""Record some steps with torch's profiler, and tell where their time went."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

from neox.config.sections import MonitorConfig
from neox.monitor.timers import PREFIX
from neox.parallel.topology import Topology

# the first that an operator's name matches
KINDS = (
    ("communication", r"nccl|gloo|c10d|all_?reduce|all_?gather|reduce_?scatter|broadcast|send|recv"),
    ("attention", r"attention|flash|fmha"),
    ("matrix products", r"(^|_|::)(add|badd|b)?(mm|bmm)(_|$)|linear|matmul|gemm"),
    ("compiled kernels", r"CompiledFxGraph|Torch-Compiled|CompiledFunction|triton_|cpp_fused"),
    ("copies", r"copy|clone|contiguous|cat$|fill_|zero_|memcpy|memset"),
)
IN_UPDATES, OTHER, BETWEEN = "optimizer", "other operators", "Python and waiting"
NAMED_FROM = 0.01  # an operator of no kind has a line of its own from this share on


class Profile:
    """Records the steps of `profile_step_start` up to, but not including, `profile_step_stop`: `<log_dir>/profile/rank<N>.json.gz` of
    every rank, for Perfetto or chrome://tracing, and a table of kinds of work of the first rank on stderr."""

    def __init__(self, config: MonitorConfig, topology: Topology) -> None:
        self._steps = range(config.profile_step_start, config.profile_step_stop)
        self._path = Path(config.log_dir) / "profile" / f"rank{topology.rank}.json.gz"
        self._is_main = topology.is_main
        self._cuda = topology.device.type == "cuda"
        self._profiler: profile | None = None
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it says on stderr that it begins and ends

    def before(self, step: int) -> None:
        """Begin or end recording before the step of that number."""
        if step in self._steps and self._profiler is None:
            activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
            self._profiler = profile(activities=activities)
            self._profiler.start()
            self._began, self._first = time.perf_counter(), step
        elif step not in self._steps:
            self.end(step)

    def end(self, step: int) -> None:
        """Write what was recorded before that step, if anything."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()  # waits for the device
        steps = step - self._first
        milliseconds = (time.perf_counter() - self._began) / steps * 1e3
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}")  # torch goes by the end of the name
        profiler.export_chrome_trace(str(partial))
        partial.replace(self._path)
        if self._is_main:
            kinds = milliseconds_by_kind(profiler.events(), milliseconds * steps, self._cuda)
            _print_table({kind: spent / steps for kind, spent in kinds.items()}, steps, self._path)


def milliseconds_by_kind(events: list[FunctionEvent], milliseconds: float, cuda: bool) -> dict[str, float]:
    """What each kind of work took of so many milliseconds, the longest first: of the device on CUDA, else of the thread that trains.

    An operator counts without those that it calls. What no operator accounts for is Python and waiting: for data, for other
    processes, and on CUDA for the host.
    """
    spent: dict[str, float] = defaultdict(float)
    own_thread = {event.thread for event in events if event.name.startswith(PREFIX)}
    for event in events:
        if event.device_type != DeviceType.CPU or event.is_user_annotation:
            continue
        if cuda:
            spent[kind_of(event)] += event.self_device_time_total / 1e3
        elif event.thread in own_thread:
            spent[kind_of(event)] += event.self_cpu_time_total / 1e3
    known = {*(kind for kind, _ in KINDS), IN_UPDATES}
    for name in [name for name in spent if name not in known and spent[name] < NAMED_FROM * milliseconds]:
        spent[OTHER] += spent.pop(name)
    spent[BETWEEN] = max(0.0, milliseconds - sum(spent.values()))
    return dict(sorted(spent.items(), key=lambda item: -item[1]))


def kind_of(event: FunctionEvent) -> str:
    """The kind of work that an operator does, or its name. An update takes all that it does but for products and communication."""
    kind = next((kind for kind, pattern in KINDS if re.search(pattern, event.name)), None)
    if kind in ("communication", "matrix products"):
        return kind
    name = event.name
    while (event := event.cpu_parent) is not None:
        if event.name == PREFIX + "optimizer":
            return IN_UPDATES
    return kind or name


def _print_table(kinds: dict[str, float], steps: int, path: Path) -> None:
    total = sum(kinds.values())
    table = Table("", "ms a step", "share", box=None, pad_edge=False)
    table.columns[1].justify = table.columns[2].justify = "right"
    for kind, spent in kinds.items():
        table.add_row(kind, f"{spent:,.1f}", f"{spent / total:.1%}")
    table.add_row("in all, with the profiler at work", f"{total:,.1f}", "")
    console = Console(file=sys.stderr)
    console.print(
        f"profile of {steps} step{'' if steps == 1 else 's'}: {path} (open it at ui.perfetto.dev)", soft_wrap=True
    )
    console.print(table)
