"""Real processes: signals, failures, survivors and exit codes. The workers are small scripts without torch."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest

from neox.launch import supervise
from neox.launch.argv import Worker

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """\
import sys
from neox.launch.argv import Worker
from neox.launch.supervise import supervise

count, script = int(sys.argv[1]), sys.argv[2]
workers = [Worker(rank, (sys.executable, "-u", "-c", script), {"RANK": str(rank)}) for rank in range(count)]
sys.exit(supervise(workers, grace_seconds=float(sys.argv[3]), max_restarts=int(sys.argv[4])))
"""
HEAD = """\
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK"])
open(f"pid.{rank}", "w").write(str(os.getpid()))
def on(number, code, slow=0):
    def handle(signum, frame):
        open(f"got.{rank}", "a").write(f"{signal.Signals(signum).name}\\n")
        time.sleep(slow)
        sys.exit(code)
    signal.signal(number, handle)
def ready_and_wait():
    open(f"ready.{rank}", "w").close()
    while True: time.sleep(0.02)
"""


@pytest.fixture
def launch(tmp_path):
    """Start a launcher of workers that run `body` in an empty folder; afterwards no worker may be left."""
    launchers = []

    def start(body, count=2, grace=0.5, restarts=0, **keywords):
        script = HEAD + body
        launcher = subprocess.Popen(
            [sys.executable, "-c", LAUNCHER, str(count), script, str(grace), str(restarts)],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
            **keywords,
        )
        launchers.append(launcher)
        return launcher

    yield start
    for launcher in launchers:
        if launcher.poll() is None:
            launcher.kill()
        launcher.wait()
    deadline = time.monotonic() + 3
    while survivors(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = survivors(tmp_path)
    for pid in left:  # a broken launcher shall not leave them to the machine
        os.kill(int(pid), signal.SIGKILL)
    assert not left


def survivors(folder):
    """Process ids of workers that are still there (and not merely uncollected)."""
    left = []
    for path in folder.glob("pid.*"):
        pid = path.read_text()
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if pid and state not in "ZX":
            left.append(pid)
    return left


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def wait_ready(folder, count=2):
    wait_until(lambda: len(list(folder.glob("ready.*"))) == count)


def received(folder, rank=0):
    return (folder / f"got.{rank}").read_text().split()


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((0, 0), 0), ((75, 75), 75), ((0, 75), 75), ((1, 0), 1), ((0, 3), 1), ((2, 2), 2), ((75, 1), 1)],
)
def test_exit_codes(launch, codes, expected):
    launcher = launch(f"sys.exit({codes}[rank])")
    assert launcher.wait(10) == expected


def test_output_of_the_ranks(launch):
    body = "sys.stdout.write(f'out {rank}\\n'); sys.stderr.write(f'err {rank}\\n'); sys.stdout.write('no newline')"
    out, err = launch(body, count=3).communicate(timeout=10)
    assert "out 0\n" in out
    assert "err 0\n" in err
    for rank in (1, 2):
        assert f"[rank {rank}] out {rank}\n" in out
        assert f"[rank {rank}] no newline\n" in out
        assert f"[rank {rank}] err {rank}\n" in err


def test_rank_0_has_the_stdin_of_the_launcher(launch):
    launcher = launch("sys.stdout.write(f'{rank} {sys.stdin.read()!r}\\n')", stdin=subprocess.PIPE)
    out, _ = launcher.communicate("a question\n", timeout=10)
    assert "0 'a question\\n'" in out
    assert "[rank 1] 1 ''" in out


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"])
def test_a_signal_reaches_every_worker_once(launch, tmp_path, name):
    """FAULTS 12."""
    number = signal.Signals[name]
    launcher = launch(f"on(signal.{name}, 75, slow=0.3); ready_and_wait()")
    wait_ready(tmp_path)
    launcher.send_signal(number)
    assert launcher.wait(10) == 75
    assert received(tmp_path, 0) == received(tmp_path, 1) == [name]


def test_ctrl_c_at_a_terminal_reaches_workers_once(launch, tmp_path):
    """A terminal signals the launcher's whole process group: the workers are not in it."""
    launcher = launch("on(signal.SIGINT, 75, slow=0.3); ready_and_wait()")
    wait_ready(tmp_path)
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.wait(10) == 75
    assert received(tmp_path, 0) == received(tmp_path, 1) == ["SIGINT"]


def test_a_second_interrupt_kills(launch, tmp_path):
    """FAULTS 11 and 12."""
    launcher = launch("on(signal.SIGTERM, 75, slow=60); ready_and_wait()")
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    wait_until(lambda: len(list(tmp_path.glob("got.*"))) == 2)
    launcher.send_signal(signal.SIGINT)
    _, err = launcher.communicate(timeout=5)
    assert launcher.returncode == 1
    assert "SIGINT again: killing every process" in err
    assert not survivors(tmp_path)


def test_a_save_signal_before_an_interrupt_kills_nothing(launch, tmp_path):
    body = (
        "signal.signal(signal.SIGUSR1, lambda *_: open(f'saved.{rank}', 'w')); on(signal.SIGTERM, 75); ready_and_wait()"
    )
    launcher = launch(body)
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGUSR1)
    wait_until(lambda: len(list(tmp_path.glob("saved.*"))) == 2)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(10) == 75


def test_workers_that_do_not_hear_the_signal_end_too(launch, tmp_path):
    launcher = launch("ready_and_wait()")
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    _, err = launcher.communicate(timeout=5)
    assert launcher.returncode == 1
    assert "was ended by SIGTERM before it had saved" in err


def test_a_failure_names_its_rank_and_last_lines_and_ends_the_others(launch, tmp_path):
    body = "if rank == 1: print('about to fail'); sys.exit('boom')\nready_and_wait()"
    launcher = launch(body, count=3)
    out, err = launcher.communicate(timeout=10)
    assert launcher.returncode == 1
    assert "rank 1 failed with exit code 1: ending the other processes" in err
    assert "last lines of rank 1:\n" in err
    assert "    boom\n" in err
    assert "[rank 1] about to fail" in out
    assert err.count("ending the other processes") == 1, "the first failure is told, not its consequences"
    assert not survivors(tmp_path)


def test_a_killed_rank_is_named_with_its_signal(launch, tmp_path):
    """FAULTS 13."""
    launcher = launch("ready_and_wait()", count=3)
    wait_ready(tmp_path, 3)
    os.kill(int((tmp_path / "pid.2").read_text()), signal.SIGKILL)
    _, err = launcher.communicate(timeout=5)
    assert launcher.returncode == 1
    assert "rank 2 was killed by SIGKILL (the kernel does this where memory runs out)" in err
    assert not survivors(tmp_path)


def test_of_those_that_ended_together_the_killed_one_is_the_cause(launch, tmp_path):
    """FAULTS 13: the others fail for the want of it. The launcher finds both at once here: it is stopped meanwhile."""
    body = (
        "if rank == 1: ready_and_wait()\n"
        "open('ready.0', 'w').close()\n"
        "while not os.path.exists('go'): time.sleep(0.02)\n"
        "sys.exit(1)"
    )
    launcher = launch(body)
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGSTOP)
    os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGKILL)
    (tmp_path / "go").touch()
    wait_until(lambda: not survivors(tmp_path))
    launcher.send_signal(signal.SIGCONT)
    _, err = launcher.communicate(timeout=5)
    assert "rank 1 was killed by SIGKILL" in err and "rank 0 failed" not in err


def test_after_a_failure_the_others_are_asked_to_end(launch, tmp_path):
    body = (
        "on(signal.SIGTERM, 75)\n"
        "if rank == 0: ready_and_wait()\n"
        "while not os.path.exists('ready.0'): time.sleep(0.02)\n"
        "sys.exit(1)"
    )
    launcher = launch(body, grace=10)
    assert launcher.wait(8) == 1
    assert received(tmp_path, 0) == ["SIGTERM"]


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(launch, tmp_path):
    body = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if rank == 0: ready_and_wait()\n"
        "while not os.path.exists('ready.0'): time.sleep(0.02)\n"
        "sys.exit(1)"
    )
    started = time.monotonic()
    launcher = launch(body, grace=1.0)
    _, err = launcher.communicate(timeout=10)
    assert launcher.returncode == 1
    assert "rank 1 failed" in err
    assert time.monotonic() - started >= 1.0
    assert not survivors(tmp_path)


def test_a_process_that_nothing_ends_is_told_and_not_waited_for(monkeypatch, capsys):
    """As in the kernel, where a disk or a device does not answer: here SIGKILL is not sent."""
    monkeypatch.setattr(supervise, "_signal_group", lambda *_: None)
    monkeypatch.setattr(supervise, "_adopt_orphans", lambda: None)
    for name in ("KILLED_SECONDS", "LEFTOVER_SECONDS"):
        monkeypatch.setattr(supervise, name, 0.2)
    workers = [Worker(0, ("sh", "-c", "trap '' TERM; sleep 1000 & wait; wait"), {}), Worker(1, ("false",), {})]
    supervisor = supervise.Supervisor(workers, os.environ, deque(), grace_seconds=0.2, alone=False)
    started = time.monotonic()
    try:
        assert supervisor.run() == 1
    finally:
        os.killpg(supervisor.running[0].process.pid, signal.SIGKILL)
    assert time.monotonic() - started < 10
    assert "rank 0 (process " in capsys.readouterr().err


def test_a_killed_launcher_leaves_no_worker(launch, tmp_path):
    """FAULTS 15."""
    launcher = launch("signal.signal(signal.SIGTERM, signal.SIG_IGN); ready_and_wait()", count=3)
    wait_ready(tmp_path, 3)
    assert len(survivors(tmp_path)) == 3
    launcher.kill()
    launcher.wait()
    wait_until(lambda: not survivors(tmp_path), 3)


def test_children_of_workers_are_ended(launch, tmp_path):
    body = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "open(f'pid.child{rank}', 'w').write(str(child.pid))\n"
        "if rank == 1: time.sleep(0.3); os._exit(9)\n"
        "ready_and_wait()"
    )
    launcher = launch(body)
    assert launcher.wait(20) == 1
    assert not survivors(tmp_path)


def test_ignored_signals_stay_ignored(launch, tmp_path):
    """Under nohup, the end of the terminal does not end the run."""
    body = "on(signal.SIGTERM, 75); ready_and_wait()"
    launcher = launch(body, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert launcher.poll() is None
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(10) == 75


def test_rank_0_keeps_the_terminal(tmp_path):
    """The progress line of rank 0 needs the terminal itself, not a pipe."""
    controller, terminal = os.openpty()
    script = HEAD + "sys.stdout.write(f'terminal {rank} {sys.stdout.isatty()} {sys.stdin.isatty()}\\n')"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, "2", script, "1", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )
    os.close(terminal)
    assert launcher.wait(10) == 0
    output = os.read(controller, 10_000).decode()
    os.close(controller)
    assert "terminal 0 True True" in output
    assert "[rank 1] terminal 1 False False" in output


LIVES = """
lives = len(open(f"lives.{rank}").read()) if os.path.exists(f"lives.{rank}") else 0
open(f"lives.{rank}", "a").write("x")
"""


def test_a_run_that_fails_starts_again(launch, tmp_path):
    """FAULTS 16."""
    launcher = launch(LIVES + "if rank == 1 and lives < 2: os.kill(os.getpid(), signal.SIGKILL)\n", restarts=2)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 0
    assert (tmp_path / "lives.1").read_text() == "xxx"
    assert "restart 1 of 2 in 1 s" in errors
    assert "restart 2 of 2 in 2 s" in errors


def test_it_gives_up_and_tells_every_failure(launch):
    """FAULTS 16."""
    launcher = launch(
        LIVES + "if rank == 1: print('in its life', lives); sys.exit(3 + lives)\nready_and_wait()\n", restarts=1
    )
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 1
    assert errors.splitlines()[-5:] == [
        "gave up after 1 restarts; what failed, in order:",
        f"    {socket.gethostname()}: rank 1 failed with exit code 3",
        f"    {socket.gethostname()}: rank 1 failed with exit code 4",
        "the last lines before the end:",
        "    in its life 1",
    ]


def test_one_that_refuses_to_begin_is_not_started_again(launch, tmp_path):
    launcher = launch(LIVES + "sys.exit(2)", restarts=3)
    _, errors = launcher.communicate(timeout=20)
    assert launcher.returncode == 2
    assert errors == ""
    # the first that refuses ends the other, which may not have begun
    assert max(len(path.read_text()) for path in tmp_path.glob("lives.*")) == 1


def test_a_save_signal_does_not_end_a_process_that_is_still_starting(launch, tmp_path):
    launcher = launch("on(signal.SIGTERM, 75); ready_and_wait()")
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    assert launcher.poll() is None
    launcher.terminate()
    assert launcher.wait(10) == 75


def test_a_run_that_saved_on_demand_starts_again_after_a_failure(launch, tmp_path):
    launcher = launch(LIVES + "if lives == 0: ready_and_wait()", restarts=1)
    wait_ready(tmp_path)
    launcher.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGKILL)
    assert launcher.wait(10) == 0


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_between_two_starts_ends_the_run_in_order(launch, tmp_path, name):
    launcher = launch(LIVES + "sys.exit(1)", count=1, restarts=3)
    while "restart 1 of 3" not in launcher.stderr.readline():
        pass
    launcher.send_signal(signal.Signals[name])
    _, errors = launcher.communicate(timeout=5)
    assert launcher.returncode == 1
    assert errors == "stopped by a signal: not started again\n"
    assert (tmp_path / "lives.0").read_text() == "x"


def test_a_run_that_was_told_to_stop_does_not_start_again(launch, tmp_path):
    launcher = launch(LIVES + "on(signal.SIGTERM, 1); ready_and_wait()", restarts=3)
    wait_ready(tmp_path)
    launcher.terminate()
    assert launcher.wait(10) == 1
    assert (tmp_path / "lives.0").read_text() == "x"
