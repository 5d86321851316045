"""Look at this machine and say what would stop or slow a run, and how to mend it: `python tools/doctor.py [--json]`.

Every check is a function that returns findings; none changes anything. Exit code 1 where a finding is a failure.
"""

from __future__ import annotations

import argparse
import json
import netrc
import os
import platform
import re
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import neox  # noqa: F401 (first: it tells what this interpreter lacks)

# isort: split
from rich.console import Console
from rich.text import Text

from neox.launch.cores import usable_processors

GIB = 2**30
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
LAUNCHERS = {  # program -> the launcher that needs it
    "ssh": "pdsh",
    "pdsh": "pdsh",
    "srun": "slurm",
    "mpirun": "openmpi",
    "mpiexec.hydra": "mpich",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `mend` says what to do where it is not ok."""

    name: str
    state: Literal["ok", "warn", "fail"]
    detail: str
    mend: str = ""


Findings = Iterator[Finding]


def python() -> Findings:
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")


def packages() -> Findings:
    """The pinned requirements against what is installed."""
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        if not (pin := re.fullmatch(r"([\w-]+)==(\S+)", line)):
            continue
        name, wanted = pin.groups()
        install = f"python -m pip install '{name}=={wanted}'"
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Finding(name, "fail", "not installed", install)
            continue
        same = found.partition("+")[0] == wanted
        yield Finding(name, "ok" if same else "warn", found, "" if same else f"tested with {wanted}: {install}")


def torch_and_gpus() -> Findings:
    """What torch sees, against what the machine has."""
    nodes = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
    try:
        import torch  # noqa: PLC0415 (where it is broken, the rest is still worth telling)
        from torch import distributed  # noqa: PLC0415
    except (ImportError, OSError) as error:
        yield Finding("torch import", "fail", str(error), "install requirements.txt anew, in a new environment")
        return
    gloo = distributed.is_available() and distributed.is_gloo_available()
    yield Finding(
        "gloo", "ok" if gloo else "fail", "built in" if gloo else "missing", "" if gloo else "use torch's wheels"
    )
    if not torch.cuda.is_available():
        if nodes:
            mend = "install torch's CUDA build and a driver that fits it; look at CUDA_VISIBLE_DEVICES"
            yield Finding(
                "cuda", "fail", f"{', '.join(nodes)} are there, but torch {torch.__version__} sees none", mend
            )
        else:
            yield Finding("cuda", "ok", "no GPU here: runs use the CPU with gloo")
        return
    count = torch.cuda.device_count()
    fewer = count < len(nodes)
    yield Finding(
        "cuda",
        "warn" if fewer else "ok",
        f"{count} devices, CUDA {torch.version.cuda}",
        f"the machine has {len(nodes)}: look at CUDA_VISIBLE_DEVICES" if fewer else "",
    )
    nccl = distributed.is_nccl_available()
    version = ".".join(map(str, torch.cuda.nccl.version())) if nccl else "missing"
    yield Finding("nccl", "ok" if nccl else "fail", version, "" if nccl else "use torch's wheels")
    for index in range(count):
        device = torch.cuda.get_device_properties(index)
        yield Finding(f"gpu {index}", "ok", f"{device.name}, {device.total_memory / GIB:.0f} GiB")


def driver() -> Findings:
    if not (program := shutil.which("nvidia-smi")):
        return
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False)
    versions = sorted(set(done.stdout.split()))
    if done.returncode or not versions:
        words = (done.stderr or done.stdout).strip().splitlines()
        yield Finding("driver", "fail", words[0] if words else "nvidia-smi fails", "install or reload the driver")
    else:
        yield Finding("driver", "ok", ", ".join(versions))


def datasets() -> Findings:
    """The compiled helpers that build sample indices."""
    try:
        import_module("neox.parallel.megatron")  # the door: without it megatron-core imports everything
        import_module("megatron.core.datasets.helpers_cpp")
    except ImportError as error:
        yield Finding("dataset helpers", "fail", str(error), "install megatron-core's wheel, not its source")
    else:
        yield Finding("dataset helpers", "ok", "compiled")


def processor() -> Findings:
    yield Finding("processors", "ok", f"{usable_processors()} of {os.cpu_count()}")
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free, total = (int(facts[name].split()[0]) * 1024 / GIB for name in ("MemAvailable", "MemTotal"))
    low = free < 4
    mend = "an import of torch and deepspeed takes half a GiB a process" if low else ""
    yield Finding("memory", "warn" if low else "ok", f"{free:.1f} GiB free of {total:.1f} GiB", mend)


def shared_memory() -> Findings:
    folder = Path("/dev/shm")
    if not folder.is_dir():
        yield Finding("/dev/shm", "warn", "not there", "NCCL and data loading use it: mount a tmpfs there")
        return
    free = shutil.disk_usage(folder).free / GIB
    low = free < 1
    mend = "give the container more: docker run --shm-size=8g, or an emptyDir of medium Memory" if low else ""
    yield Finding("/dev/shm", "warn" if low else "ok", f"{free:.1f} GiB free", mend)


def open_files() -> Findings:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = soft != resource.RLIM_INFINITY and soft < 4096
    mend = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}: data sets and connections need more" if low else ""
    yield Finding("open files", "warn" if low else "ok", "unlimited" if soft < 0 else f"{soft:,}", mend)


def disk() -> Findings:
    free = shutil.disk_usage(".").free / GIB
    low = free < 10
    mend = "free some, or run elsewhere: a checkpoint takes some 12 bytes a parameter" if low else ""
    yield Finding("disk here", "warn" if low else "ok", f"{free:.0f} GiB free", mend)


def compiler() -> Findings:
    found = shutil.which("g++") or shutil.which("c++")
    mend = "" if found else "apt-get install g++: torch.compile and some of DeepSpeed's parts need it"
    yield Finding("C++ compiler", "ok" if found else "warn", found or "not found", mend)


def network() -> Findings:
    name = socket.gethostname()
    try:
        address = socket.getaddrinfo(name, None)[0][4][0]
    except OSError as error:
        yield Finding(
            "host name", "warn", f"{name}: {error}", f"gloo looks it up: add `127.0.1.1 {name}` to /etc/hosts"
        )
    else:
        yield Finding("host name", "ok", f"{name} is {address}")


def launchers() -> Findings:
    for program, launcher in LAUNCHERS.items():
        path = shutil.which(program)
        yield Finding(program, "ok", path or f"not found; only launcher: {launcher} needs it")


def weights_and_biases() -> Findings:
    """Whether a run would be online; nothing is contacted, and no key is shown."""
    if os.environ.get("WANDB_API_KEY"):
        yield Finding("wandb key", "ok", "in WANDB_API_KEY")
        return
    try:
        known = netrc.netrc().authenticators("api.wandb.ai")
    except (OSError, netrc.NetrcParseError):
        known = None
    yield Finding(
        "wandb key", "ok", "in ~/.netrc" if known else "none: runs stay offline until `wandb login`, and can be synced"
    )


CHECKS: list[Callable[[], Findings]] = [
    python,
    packages,
    torch_and_gpus,
    driver,
    datasets,
    processor,
    shared_memory,
    open_files,
    disk,
    compiler,
    network,
    launchers,
    weights_and_biases,
]


def main() -> int:
    """Print the findings; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="python tools/doctor.py")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the findings")
    arguments = parser.parse_args()
    findings = [finding for check in CHECKS for finding in check()]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        _show(findings)
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _show(findings: list[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        line = Text.assemble((finding.state.ljust(6), STYLES[finding.state]), (finding.name.ljust(width + 2), "bold"))
        console.print(
            line + Text(finding.detail) + Text(f"\n{' ' * (width + 8)}{finding.mend}" if finding.mend else "", "dim")
        )
    counts = {state: sum(finding.state == state for finding in findings) for state in STYLES}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


if __name__ == "__main__":
    sys.exit(main())
