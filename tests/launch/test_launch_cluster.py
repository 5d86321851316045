"""What the launcher makes of its agents' endings; the program that would start them is a line of shell here. And an agent's own end."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import ROOT, write_config

from neox.config.hosts import Host
from neox.launch import node
from neox.launch.cluster import run_on_hosts
from neox.launch.node import HERE, Ending
from neox.launch.orders import Orders, orders_folder
from neox.launch.restarts import FAILED, REFUSED, STOPPED, Failure

HOSTS = [Host(name, (0,), f"hosts.txt:{line}") for name, line in (("alpha", 3), ("beta", 7), ("gamma", 9))]
DIED = Failure("rank 3 was killed by SIGKILL", "beta", ("step 7", "step 8"))


@pytest.fixture
def launch(tmp_path, capfd):
    """Run a launcher whose agents come up and end so, and which itself ends with an exit code; its exit code and what was printed."""

    def run(*endings: Ending, code: int = 0, max_restarts: int = 0, here: tuple[int, ...] = ()) -> tuple[int, str]:
        for number in here:
            print(f"{HERE}{number}")
        for ending in endings:
            ending.tell()
        (tmp_path / "output").write_text(capfd.readouterr().out)
        argv = ["sh", "-c", f"echo x >> {tmp_path}/starts; cat {tmp_path}/output; exit {code}"]
        orders = Orders(tmp_path / "orders" / "file")
        exit_code = run_on_hosts(argv, orders, "", max_restarts, environ={}, hosts=HOSTS)
        captured = capfd.readouterr()
        return exit_code, captured.out + captured.err

    return run


def test_exit_codes(launch):
    assert launch() == (0, "")
    assert launch(Ending(STOPPED, "alpha"), Ending(STOPPED, "beta")) == (75, "")
    assert launch(Ending(REFUSED, "alpha"), Ending(FAILED, "beta"), code=1, max_restarts=3)[0] == 2
    assert launch(Ending(STOPPED, "alpha"), Ending(FAILED, "beta", DIED))[0] == 1
    assert launch(code=255)[0] == 1


def test_giving_up_names_the_host_the_rank_and_its_last_lines(launch, tmp_path):
    """FAULTS 16."""
    code, printed = launch(Ending(FAILED, "beta", DIED), code=1, max_restarts=1, here=(0, 1, 2))
    assert code == 1
    assert printed.splitlines()[-6:] == [
        "gave up after 1 restarts; what failed, in order:",
        "    beta: rank 3 was killed by SIGKILL",
        "    beta: rank 3 was killed by SIGKILL",
        "the last lines before the end:",
        "    step 7",
        "    step 8",
    ]
    assert (tmp_path / "starts").read_text() == "x\nx\n"


def test_hosts_that_cannot_be_reached(launch):
    """FAULTS 36: each is named with its line of the hostfile; the launcher's own program says why."""
    absent = "no agent came up on these hosts; what sh printed says why:\n    hosts.txt:7: beta\n"
    code, printed = launch(Ending(FAILED, "alpha", DIED), code=255, max_restarts=1, here=(0, 2))
    assert code == 1 and printed.startswith(absent)
    assert "what failed, in order:\n    no agent came up on beta (hosts.txt:7)\n" in printed
    assert "    hosts.txt:3: alpha\n    hosts.txt:7: beta\n    hosts.txt:9: gamma\n" in launch(code=1)[1]
    code, printed = launch(code=255, max_restarts=1, here=(0, 1, 2))
    assert "    sh ended with exit code 255" in printed and "no agent" not in printed


def test_a_host_that_has_no_address(tmp_path):
    """FAULTS 36, with pdsh and ssh."""
    (tmp_path / "hosts.txt").write_text("# one machine\nno-such-machine.invalid slots=1\n")
    (tmp_path / "wait.py").touch()
    keys = {"launcher": "pdsh", "hostfile": "hosts.txt", "train_iters": 1}
    write_config(tmp_path, tmp_path / "data", **keys)
    command = [sys.executable, str(ROOT / "deepy.py"), "wait.py", "config.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "ssh: Could not resolve hostname no-such-machine.invalid" in done.stderr
    assert "what pdsh printed says why:\n    hosts.txt:2: no-such-machine.invalid\n" in done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.glob(".neox-*"))


def test_a_current_folder_that_cannot_be_written_is_refused(tmp_path):
    """/proc takes no folder, root's neither."""
    (tmp_path / "wait.py").touch()
    config = write_config(tmp_path, tmp_path / "data", launcher="torchrun", num_gpus=1)
    command = [sys.executable, str(ROOT / "deepy.py"), str(tmp_path / "wait.py"), str(config)]
    done = subprocess.run(command, cwd="/proc", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert "/proc cannot be written to (" in done.stderr and "1 mistake: nothing was started" in done.stderr
    assert "Traceback" not in done.stderr


SIGNALLED_WHILE_IT_TELLS = """\
import os, signal, sys
from neox.launch import node
tell = node.Ending.tell
node.Ending.tell = lambda ending: (os.kill(os.getpid(), signal.SIGTERM), tell(ending))
sys.exit(node.main(sys.argv[1:]))
"""


def test_a_signal_that_comes_when_all_is_over_does_not_hide_how_it_ended(tmp_path):
    (tmp_path / "stop.py").write_text("raise SystemExit(75)\n")
    orders = Orders(tmp_path / ".neox-here-1" / "orders")
    orders.open({}, "")
    place = ["--folder", tmp_path, "--orders", orders.path, "--slots", "0", "--node-rank", "0"]
    meeting = ["--master-addr", "127.0.0.1", "--master-port", "29500"]
    agent = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED_WHILE_IT_TELLS, *place, *meeting, "--", "stop.py"],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with agent.stdin:  # the launcher is there
        told = agent.stdout.read()
        assert agent.wait(timeout=30) == 0
    assert Ending.heard(told).code == STOPPED


def test_orders_that_cannot_be_read_for_a_moment_are_read_again(tmp_path, monkeypatch):
    """As on a network file system, or when the launcher removes them: the agent goes on."""
    orders = Orders(tmp_path / ".neox-here-1" / "orders")
    orders.open({}, "")
    orders.pass_on("SIGUSR1")
    read_text, failing = Path.read_text, [OSError(116, "Stale file handle")]

    def read(path):
        if failing:
            raise failing.pop()
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", read)
    assert next(orders.signals()) == "SIGUSR1"


def test_a_machine_that_does_not_see_the_current_folder_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, missing in ((tmp_path / "elsewhere", "elsewhere"), (tmp_path, "orders")):
        place = ["--folder", str(folder), "--orders", str(tmp_path / "orders"), "--slots", "0", "--node-rank", "0"]
        assert node.main([*place, "--master-port", "29500", "--", "train.py"]) == FAILED
        said, ending = capsys.readouterr().out.splitlines()
        assert f"{tmp_path}/{missing}: No such file or directory: all machines must see" in said
        assert Ending.heard(ending).code == REFUSED


def test_slurm_that_does_not_tell_the_first_host_is_heard(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-2]")
    scontrol, orders = tmp_path / "scontrol", Orders(tmp_path / ".neox-here-1" / "orders")
    scontrol.write_text("#!/bin/sh\necho slurm_load_node error: Unable to contact slurm controller >&2\nexit 1\n")
    scontrol.chmod(0o755)
    orders.open({}, "")
    place = ["--folder", str(tmp_path), "--orders", str(orders.path), "--slots", "0", "--node-rank", "0"]
    assert node.main([*place, "--master-port", "29500", "--", "train.py"]) == FAILED
    said = capfd.readouterr()
    assert "Unable to contact slurm controller" in said.err
    assert "the first host's address is not known" in said.out and "give master_addr" in said.out


def test_orders_of_a_launcher_that_was_killed_before_its_agents_came_are_swept(tmp_path):
    """They have the environment in them."""
    killed = subprocess.Popen(["true"])
    killed.wait()
    left = orders_folder(tmp_path).with_name(f".neox-{socket.gethostname()}-{killed.pid}")
    Orders(left / "orders").open({"WANDB_API_KEY": "canary"}, "")
    another_machines, running = tmp_path / f".neox-elsewhere-{killed.pid}", tmp_path / f".neox-{socket.gethostname()}-1"
    another_machines.mkdir(), running.mkdir()
    orders = Orders(orders_folder(tmp_path) / "orders")
    orders.open({}, "")
    assert {*tmp_path.iterdir()} == {another_machines, running, orders.path.parent}


@given(st.lists(st.text()), st.text())
def test_an_ending_is_one_line_that_is_heard_as_it_was_told(lines, before):
    ending = Ending(FAILED, "beta", Failure("rank 1 failed", "beta", tuple(lines)))
    text = ending.line()
    assert len(text.splitlines()) == 1 and len(text.encode()) < 4096
    heard = Ending.heard(before + text)
    assert heard.code == FAILED and heard.failure.cause == "rank 1 failed"
    assert Ending.heard(before) is None or Ending.MARK in before


def test_an_agent_that_its_cluster_ends_removes_the_orders_of_a_launcher_that_is_gone(tmp_path):
    """FAULTS 15: Slurm tells an agent by a signal, before its input ends."""
    (tmp_path / "wait.py").write_text("import time\nprint('waiting', flush=True)\ntime.sleep(100)\n")
    orders = Orders(tmp_path / ".neox-here-1" / "orders")
    orders.open({}, "")
    place = ["--folder", tmp_path, "--orders", orders.path, "--slots", "0", "--node-rank", "0"]
    meeting = ["--master-addr", "127.0.0.1", "--master-port", "29500"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "neox.launch.node", *place, *meeting, "--", "wait.py"],
        env={"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert [agent.stdout.readline() for _ in range(2)] == [f"{HERE}0\n", "waiting\n"]
    agent.terminate()
    while "neox.launch.node ended" not in agent.stdout.readline():
        pass
    time.sleep(0.5)
    agent.stdin.close()
    assert agent.wait(timeout=30) == FAILED
    assert not orders.path.parent.exists()
