"""The hosts of a run: the hostfile, and which part of it is taken.

A host's name reaches other programs' command lines, so nothing passes that is not plainly a name. Knows nothing about how
processes are started.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from neox.config.errors import ConfigError
from neox.config.load import did_you_mean

NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
SLOTS = re.compile(r"slots=([0-9]{1,4})")
MOST_SLOTS = 1024
FORM = "write `NAME slots=NUMBER` on each line"


@dataclass(frozen=True)
class Host:
    """A machine and the slots that are taken on it, one process each; a slot is a GPU's index there."""

    name: str
    slots: tuple[int, ...]
    place: str = field(default="", compare=False)  # file:line of the hostfile, where one names it


def read_hostfile(path: str | Path) -> list[Host]:
    """The hosts of a file of `NAME slots=NUMBER` lines, in their order; `#` starts a comment.

    Raises `ConfigError` with every line that is not of this form, and every host that is there twice.
    """
    try:
        text = Path(path).read_bytes().decode()
    except OSError as error:
        raise ConfigError(f"hostfile: {path} cannot be read ({error.strerror}): {FORM}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"hostfile: {path}: it is not UTF-8 text (byte {error.start + 1})") from error
    hosts: dict[str, Host] = {}
    complaints = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = SLOTS.fullmatch(words[1]) if len(words) == 2 else None
        if slots is None or not NAME.fullmatch(words[0]):
            complaints.append(
                f"{path}:{number}: {line.strip()!r} is no host: {FORM}, with a host's name or IPv4 address"
            )
        elif not 1 <= int(slots[1]) <= MOST_SLOTS:
            complaints.append(f"{path}:{number}: {words[0]}: slots must be 1 to {MOST_SLOTS}, not {slots[1]}")
        elif words[0] in hosts:
            complaints.append(f"{path}:{number}: {words[0]} is given twice")
        else:
            hosts[words[0]] = Host(words[0], tuple(range(int(slots[1]))), f"{path}:{number}")
    if complaints:
        raise ConfigError(complaints)
    if not hosts:
        raise ConfigError(f"hostfile: {path} names no host: {FORM}")
    return list(hosts.values())


def taken(hosts: list[Host], include: str | None, exclude: str | None, nodes: int, per_node: int | None) -> list[Host]:
    """The part of the hosts that a run takes: `include` or `exclude` (`NODE[:SLOT,...]@NODE...`, as in DeepSpeed), then the first
    `nodes` (-1: all) hosts and the first `per_node` slots of each. Raises `ConfigError` where they ask for what is not there."""
    if include is not None and exclude is not None:
        raise ConfigError("include: exclude is given too: give one of them")
    if include is not None:
        wanted = _selection("include", include, hosts)
        hosts = [replace(host, slots=wanted[host.name] or host.slots) for host in hosts if host.name in wanted]
    elif exclude is not None:
        unwanted = _selection("exclude", exclude, hosts)
        left = [
            replace(host, slots=tuple(slot for slot in host.slots if slot not in (unwanted[host.name] or host.slots)))
            if host.name in unwanted
            else host
            for host in hosts
        ]
        hosts = [host for host in left if host.slots]
        if not hosts:
            raise ConfigError(f"exclude: {exclude} leaves no host")
    if nodes > len(hosts):
        raise ConfigError(f"num_nodes: {nodes} hosts are wanted, and the hostfile has {len(hosts)}")
    hosts = hosts if nodes == -1 else hosts[:nodes]
    if per_node is None:
        return hosts
    small = [f"{host.name} has {len(host.slots)}" for host in hosts if len(host.slots) < per_node]
    if small:
        raise ConfigError(f"num_gpus: {per_node} slots of each host are wanted, but {', '.join(small)}")
    return [replace(host, slots=host.slots[:per_node]) for host in hosts]


def _selection(key: str, text: str, hosts: list[Host]) -> dict[str, tuple[int, ...]]:
    """Hosts by name with the slots that are named; none where the whole host is meant."""
    known = {host.name: host for host in hosts}
    selection = {}
    for part in text.split("@"):
        name, colon, numbers = part.strip().partition(":")
        if name not in known:
            raise ConfigError(f"{key}: {name!r} is not in the hostfile{did_you_mean(name, known)}")
        if colon and not re.fullmatch(r"\d{1,4}(,\d{1,4})*", numbers):
            raise ConfigError(f"{key}: {part!r}: write NODE:SLOT,SLOT,... as in worker-1:0,2")
        slots = tuple(sorted({int(number) for number in numbers.split(",")})) if colon else ()
        if missing := [slot for slot in slots if slot not in known[name].slots]:
            raise ConfigError(
                f"{key}: {name} has {len(known[name].slots)} slots, counted from 0, and no slot {missing[0]}"
            )
        selection[name] = slots
    return selection


def hosts_of_run(config: Any, devices: int, dry_run: bool, environ: Mapping[str, str]) -> list[Host]:
    """The hosts of a run under a launcher other than local.

    Slurm gives its own, and torchrun's find each other: only their number is known here, and they are called node0, node1, ... .
    So they are where a dry run finds no hostfile.
    """
    launch = config.launch
    if launch.launcher not in ("slurm", "torchrun") and not (dry_run and _absent(launch.hostfile)):
        if launch.hostfile is None:
            raise ConfigError(f"hostfile: is missing: launcher: {launch.launcher} needs one; {FORM}")
        hosts = read_hostfile(launch.hostfile)
        return taken(hosts, launch.include, launch.exclude, launch.num_nodes, launch.num_gpus)
    nodes = launch.num_nodes if launch.num_nodes != -1 else int(environ.get("SLURM_JOB_NUM_NODES", 1))
    per_node = launch.num_gpus or int(environ.get("SLURM_GPUS_ON_NODE") or environ.get("SLURM_NTASKS_PER_NODE") or 0)
    if not per_node and (in_all := config.parallel.global_num_gpus):
        per_node = max(1, in_all // nodes)
    return [Host(f"node{index}", tuple(range(per_node or max(1, devices)))) for index in range(nodes)]


def _absent(hostfile: str | None) -> bool:
    return hostfile is None or not Path(hostfile).is_file()
