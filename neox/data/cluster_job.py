"""Do a preprocessing job in shards on the machines of a Ray cluster, and join them: one result, as if one machine had done it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from neox.config.errors import ConfigError
from neox.data.merge import merge_stores
from neox.data.preprocess import PreprocessJob
from neox.data.ray_cluster import Ended, joined
from neox.data.shards import Shard

LINES_SHOWN = 5


class ShardError(Exception):
    """A shard failed for no fault of the user."""


def preprocess_on_ray(
    job: PreprocessJob, command: Sequence[str], address: str, count: int | None, report: Callable[[str], None]
) -> list[str]:
    """Run `command --shard I/N` for each shard of a job (`count` of them, or as many as the cluster runs at once); the prefixes
    of what was written.

    The shards' own files go when they are joined. Raises ConfigError where a shard refuses its input, ShardError where it fails.
    """
    with joined(address) as cluster:
        places = cluster.places(job.workers)
        count = count or places
        shards = [Shard(number, count) for number in range(1, count + 1)]
        commands = [[*command, "--shard", f"{shard.number}/{count}"] for shard in shards]
        with closing(cluster.run(commands, os.getcwd(), job.workers)) as run:
            for ended in run:
                _check(ended, shards[ended.index])
                report(f"shard {ended.index + 1} of {count} done on {ended.host}")
    written = [job.key_prefix(key) for key in job.jsonl_keys]
    if count > 1:  # one shard alone has written them
        for key, output in zip(job.jsonl_keys, written):
            prefixes = [dataclasses.replace(job, shard=shard).key_prefix(key) for shard in shards]
            merge_stores(prefixes, output)
            for prefix in prefixes:
                for suffix in (".idx", ".json", ".bin"):
                    Path(f"{prefix}{suffix}").unlink()
    return written


def _check(ended: Ended, shard: Shard) -> None:
    if ended.exit_code == 0:
        return
    what = f"shard {shard.number} of {shard.count} failed on {ended.host} with exit code {ended.exit_code}"
    last = [line.removeprefix("error: ") for line in ended.output.splitlines()[-LINES_SHOWN:]]
    if ended.exit_code == 2:
        raise ConfigError([f"{what}: {line}" for line in last] or what)
    raise ShardError("\n".join([what, *last]))
