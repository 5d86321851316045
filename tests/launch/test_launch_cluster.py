"""What the launcher makes of its agents' endings; the program that would start them is a line of shell here. And an agent's own end."""

import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import ROOT

from neox.launch.cluster import run_on_hosts
from neox.launch.node import Ending
from neox.launch.orders import Orders
from neox.launch.restarts import FAILED, REFUSED, STOPPED, Failure

DIED = Failure("rank 3 was killed by SIGKILL", "beta", ("step 7", "step 8"))


@pytest.fixture
def launch(tmp_path, capfd):
    """Run a launcher whose agents end so, and which itself ends with an exit code; its exit code and what was printed."""

    def run(*endings: Ending, code: int = 0, max_restarts: int = 0) -> tuple[int, str]:
        for ending in endings:
            ending.tell()
        (tmp_path / "output").write_text(capfd.readouterr().out)
        argv = ["sh", "-c", f"echo x >> {tmp_path}/starts; cat {tmp_path}/output; exit {code}"]
        exit_code = run_on_hosts(argv, Orders(tmp_path / "orders" / "file"), "", max_restarts, environ={})
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
    code, printed = launch(Ending(FAILED, "beta", DIED), code=1, max_restarts=1)
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
    """FAULTS 36: the launcher's own program says which; no agent says anything."""
    _, printed = launch(code=255, max_restarts=1)
    assert "    sh ended with exit code 255" in printed


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
    assert "waiting" in agent.stdout.readline()
    agent.terminate()
    while "neox.launch.node ended" not in agent.stdout.readline():
        pass
    time.sleep(0.5)
    agent.stdin.close()
    assert agent.wait(timeout=30) == FAILED
    assert not orders.path.parent.exists()
