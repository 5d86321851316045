"""Real Slurm, real ssh between two hosts, real MPI twice, real torchrun: a run trains there, saves and stops when it is told to, and
leaves nothing behind.

`pdsh`, `srun`, `mpirun`, `mpiexec` and `torchrun` are the real programs; the hosts are two Slurm nodes, or two network namespaces,
of this machine.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.clusters import Hosts, hosts, slurm
from support.runs import ROOT, curve, finish, run, write_config

from neox.checkpoint.layout import steps

SCRIPT = """\
import json, os, signal, sys, time
from pathlib import Path
from neox.config.handover import config_from_argv
config_from_argv(sys.argv)
names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "WANDB_API_KEY", "GLOO_SOCKET_IFNAME"]
facts = {name: os.environ.get(name) for name in names} | {"argv": sys.argv, "pid": os.getpid()}
draft = Path(f"draft.{facts['RANK']}")
draft.write_text(json.dumps(facts))
draft.rename(f"facts.{facts['RANK']}")
if sys.argv[0] == "fail.py" and facts["RANK"] == "1":
    while not Path("facts.0").exists():
        time.sleep(0.05)
    sys.exit(3)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
while True:
    time.sleep(0.05)
"""


HOSTILE = """it's $(touch made) `touch made`; "%n" \\ \n.py"""


class Cluster:
    """Where runs are started: what it adds to their configuration, their command and their environment."""

    def __init__(self, keys: dict, prefix: list[str], environ: dict[str, str]):
        self.keys, self.prefix, self.environ = keys, prefix, environ

    def start(self, folder: Path, script: str, config: Path, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*self.prefix, sys.executable, str(ROOT / "deepy.py"), script, str(config), *arguments],
            cwd=folder,
            env={
                **os.environ,
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "WANDB_API_KEY": "canary",
                **self.environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


@pytest.fixture(scope="module", params=["slurm", "pdsh", "openmpi", "mpich", "torchrun"])
def cluster(request, tmp_path_factory):
    """Two hosts of one process each; for MPI and torchrun one host of two."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "slurm":
        with slurm(folder) as environ:
            keys = {"launcher": "slurm", "num_nodes": 2, "num_gpus": 1, "comment": "a run; $(touch made)"}
            yield Cluster(keys, [], environ)
    elif request.param == "pdsh":
        with hosts(folder) as both:
            hostfile = folder / "hostfile"
            hostfile.write_text("".join(f"{address} slots=1\n" for address in Hosts.addresses))
            keys = {"launcher": "pdsh", "hostfile": str(hostfile), "network_interface": Hosts.interface}
            yield Cluster(keys, both.inside(0, []), both.environ)
    elif request.param == "torchrun":
        yield Cluster({"launcher": "torchrun", "num_gpus": 2}, [], {})
    else:
        hostfile = folder / "hostfile"
        hostfile.write_text("localhost slots=2\n")
        root = ["--allow-run-as-root"] if request.param == "openmpi" else []
        yield Cluster({"launcher": request.param, "hostfile": str(hostfile), "launcher_args": root}, [], {})


@pytest.fixture
def started(cluster, tmp_path, char_data):
    """Start one of the small scripts and wait until both ranks are there."""
    config = write_config(tmp_path, char_data, **cluster.keys)
    for name in ("wait.py", "fail.py", HOSTILE):
        (tmp_path / name).write_text(SCRIPT)

    def start(name: str) -> tuple[subprocess.Popen, list[dict]]:
        process = cluster.start(tmp_path, name, config)
        paths = [tmp_path / f"facts.{rank}" for rank in (0, 1)]
        end = time.monotonic() + 60
        while not all(path.exists() and path.read_text() for path in paths):
            assert time.monotonic() < end, process.kill() or process.communicate()[0]
            time.sleep(0.05)
        return process, [json.loads(path.read_text()) for path in paths]

    return start


def gone(facts: list[dict], seconds: float = 10) -> bool:
    """Whether the ranks' processes end within some seconds."""
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{fact['pid']}").exists() for fact in facts):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_arguments_environment_and_secrets(cluster, started, tmp_path):
    """FAULTS 28 and 29: every argument arrives byte for byte, and no shell reads it; secrets arrive, and are no arguments."""
    process, facts = started(HOSTILE)
    commands = b"".join(path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())
    process.send_signal(signal.SIGTERM)
    output = finish(process, expect=75)
    assert gone(facts)
    assert [(fact["RANK"], fact["WORLD_SIZE"]) for fact in facts] == [("0", "2"), ("1", "2")]
    assert [fact["LOCAL_RANK"] for fact in facts] == (
        ["0", "0"] if cluster.keys["launcher"] in ("slurm", "pdsh") else ["0", "1"]
    )
    assert facts[0]["MASTER_ADDR"] == facts[1]["MASTER_ADDR"]
    assert facts[0]["argv"] == facts[1]["argv"]
    assert facts[0]["argv"][0] == HOSTILE
    assert {fact["GLOO_SOCKET_IFNAME"] for fact in facts} == {cluster.keys.get("network_interface")}
    assert {fact["WANDB_API_KEY"] for fact in facts} == {"canary"}
    assert b"neox.launch." in commands
    assert b"canary" not in commands
    assert "canary" not in output
    assert not (tmp_path / "made").exists()
    assert not list(tmp_path.glob(".neox-*")), "the orders are removed"


def test_a_failure_of_one_ends_all(started):
    """FAULTS 13."""
    process, facts = started("fail.py")
    output = finish(process, expect=1)
    assert "rank 1 failed with exit code 3" in output
    assert gone(facts)


def test_nothing_outlives_a_killed_launcher(started, tmp_path):
    """FAULTS 15."""
    process, facts = started("wait.py")
    process.kill()
    process.wait()
    assert gone(facts)
    end = time.monotonic() + 5
    while list(tmp_path.glob(".neox-*")) and time.monotonic() < end:
        time.sleep(0.05)
    assert not list(tmp_path.glob(".neox-*"))


@pytest.fixture(scope="module")
def straight(tmp_path_factory, char_data):
    """The losses of a run of two processes here, which nothing stopped."""
    folder = tmp_path_factory.mktemp("here")
    run("train.py", write_config(folder, char_data, train_iters=30, num_gpus=2))
    return curve(folder, "train/lm_loss", "train/grad_norm")


def test_a_run_saves_stops_resumes_and_ends_as_on_one_host(cluster, straight, tmp_path, char_data):
    """FAULTS 11, 12 and 29: SIGUSR1 saves once and the run goes on, SIGTERM saves and ends; the losses are those of a run on this host,
    and no secret of the environment is in any file."""
    config = write_config(tmp_path, char_data, train_iters=30, **cluster.keys)
    process = cluster.start(tmp_path, "train.py", config)
    read_until(process, "iteration 3/30")
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: len(steps(tmp_path / "checkpoints")) == 1)
    process.send_signal(signal.SIGTERM)
    finish(process, expect=75)
    saved = steps(tmp_path / "checkpoints")
    assert len(saved) == 2 and 3 <= saved[1] < saved[0] < 30
    assert f"at iteration {saved[0]}" in finish(cluster.start(tmp_path, "train.py", config))
    assert curve(tmp_path, "train/lm_loss", "train/grad_norm") == straight
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"canary" in path.read_bytes()]


def read_until(process: subprocess.Popen, words: str) -> str:
    """What a run prints until it prints these words."""
    seen = [""]
    while words not in seen[-1]:
        seen.append(process.stdout.readline())
        assert seen[-1], "".join(seen)
    return "".join(seen)


def wait_for(done, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
