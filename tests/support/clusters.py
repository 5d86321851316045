"""Real clusters on one machine: two Slurm nodes, two hosts as network namespaces with an sshd each, and a Ray cluster of two nodes.

All but Ray need root, and the Debian packages slurm-wlm, munge, pdsh, openssh-server and iproute2.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

SECONDS_TO_START = 30
SLURM = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
ReturnToService=2
MpiDefault=none
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs={cores}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs={cores}
PartitionName=all Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
"""


@contextmanager
def slurm(folder: Path) -> Iterator[dict[str, str]]:
    """Two Slurm nodes; yields the environment in which srun and scancel find them."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        _munge(stack)
        (folder / "state").mkdir()
        ports = [_free_port() for _ in range(3)]
        config = folder / "slurm.conf"
        host = socket.gethostname().partition(".")[0]
        config.write_text(SLURM.format(host=host, folder=folder, ports=ports, cores=os.cpu_count()))
        environ = {"SLURM_CONF": str(config)}
        _daemon(stack, ["slurmctld", "-D", "-f", str(config)], folder / "slurmctld.log", environ)
        for node in ("n1", "n2"):
            (folder / f"spool.{node}").mkdir()
            _daemon(stack, ["slurmd", "-D", "-N", node, "-f", str(config)], folder / f"slurmd.{node}.log", environ)
        _wait(
            lambda: _output(["sinfo", "-h", "-o", "%D %t"], environ).split() == ["2", "idle"],
            "two idle Slurm nodes",
            folder,
        )
        yield environ


def _munge(stack: ExitStack) -> None:
    """The daemon that Slurm's parts know each other by; the packaged one has its socket and key in fixed places."""
    if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
        return
    for folder in ("/run/munge", "/var/log/munge", "/var/lib/munge", "/etc/munge"):
        Path(folder).mkdir(mode=0o755, exist_ok=True)
        shutil.chown(folder, "munge", "munge")
    subprocess.run(["munged", "--force"], check=True, user="munge", group="munge")
    stack.callback(subprocess.run, ["munged", "--stop"], check=False, user="munge", group="munge")
    _wait(lambda: subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0, "munge", None)


class Hosts:
    """Two hosts: network namespaces on a bridge, each with an sshd that only its own key opens."""

    addresses = ("10.231.7.1", "10.231.7.2")
    interface = "neox0"

    def __init__(self, folder: Path, environ: dict[str, str]):
        self.folder = folder
        self.environ = environ  # in which pdsh reaches the hosts

    def inside(self, index: int, command: list[str]) -> list[str]:
        """The command as it runs on one of the hosts."""
        return ["ip", "netns", "exec", _namespace(index), *command]

    def lose(self, index: int) -> None:
        """End every process of a host at once, as a loss of power does; only its sshd is there again."""
        listed = subprocess.run(["ip", "netns", "pids", _namespace(index)], capture_output=True, text=True, check=True)
        for pid in map(int, listed.stdout.split()):
            with suppress(ProcessLookupError, FileNotFoundError):
                if b"-D" not in Path(f"/proc/{pid}/cmdline").read_bytes():  # of the sshd that listens
                    os.kill(pid, signal.SIGKILL)


def _namespace(index: int) -> str:
    return f"neox-{os.getpid()}-{index}"


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Two hosts with sshd; yields how to reach them."""
    folder.mkdir(parents=True, exist_ok=True)
    key, host_key = folder / "key", folder / "host_key"
    for path in (key, host_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    with ExitStack() as stack:
        for index in (0, 1):
            _run("ip", "netns", "add", _namespace(index))
            stack.callback(_run, "ip", "netns", "del", _namespace(index))
        # one cable between the two
        ends = [["name", Hosts.interface, "netns", _namespace(index)] for index in (0, 1)]
        _run("ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        Path("/run/sshd").mkdir(exist_ok=True)
        options = [
            "-o",
            "StrictModes=no",
            "-o",
            "UsePAM=no",
            "-o",
            "PidFile=none",
            "-o",
            f"AuthorizedKeysFile={key}.pub",
        ]
        for index, address in enumerate(Hosts.addresses):
            inside = ["ip", "netns", "exec", _namespace(index)]
            _run(*inside, "ip", "link", "set", "lo", "up")
            _run(*inside, "ip", "address", "add", f"{address}/24", "dev", Hosts.interface)
            _run(*inside, "ip", "link", "set", Hosts.interface, "up")
            command = [*inside, "/usr/sbin/sshd", "-D", "-e", "-f", "/dev/null", "-h", str(host_key), *options]
            _daemon(stack, command, folder / f"sshd.{index}.log", {})
        ssh = f"-i {key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
        both = Hosts(folder, {"PDSH_SSH_ARGS_APPEND": ssh})
        for address in Hosts.addresses:
            reach = both.inside(0, ["ssh", *ssh.split(), address, "true"])
            _wait(
                lambda reach=reach: subprocess.run(reach, check=False, capture_output=True).returncode == 0,
                "sshd",
                folder,
            )
        yield both


@contextmanager
def ray_cluster(cores: int) -> Iterator[str]:
    """A head and a second node of Ray with so many cores each; yields their address."""
    program = str(Path(sys.executable).with_name("ray"))
    # not in a test's own folder: the names of sockets must be short
    with tempfile.TemporaryDirectory(prefix="ray-") as name, ExitStack() as stack:
        folder, address = Path(name), f"127.0.0.1:{_free_port()}"
        common = [
            program,
            "start",
            "--block",
            "--disable-usage-stats",
            "--node-ip-address=127.0.0.1",
            f"--num-cpus={cores}",
        ]
        common += ["--object-store-memory=80000000"]
        head = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", f"--temp-dir={folder}"]
        for number, options in enumerate((head, [f"--address={address}"])):
            log = folder / f"{number}.log"
            _daemon(stack, [*common, *options], log, {})
            _wait(lambda log=log: "Ray runtime started" in log.read_text(), f"Ray node {number}", folder)
        yield address


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


def _daemon(stack: ExitStack, command: list[str], log: Path, environ: dict[str, str]) -> None:
    """A program that runs until the stack is left."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            command, env={**os.environ, **environ}, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
    stack.callback(process.wait, timeout=SECONDS_TO_START)
    stack.callback(process.terminate)


def _wait(done: Callable[[], bool], what: str, folder: Path | None) -> None:
    end = time.monotonic() + SECONDS_TO_START
    while not done():
        if time.monotonic() > end:
            logs = "" if folder is None else "".join(path.read_text()[-2000:] for path in folder.glob("*.log"))
            raise TimeoutError(f"no {what} within {SECONDS_TO_START} s\n{logs}")
        time.sleep(0.2)


def _output(command: list[str], environ: dict[str, str]) -> str:
    with suppress(subprocess.CalledProcessError):
        return subprocess.run(
            command, env={**os.environ, **environ}, capture_output=True, text=True, check=True, timeout=SECONDS_TO_START
        ).stdout
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
