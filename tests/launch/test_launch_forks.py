"""The tests' runs begin in a fork (`support.warm`): what they find there is what a new Python finds."""

import json
import os
import signal
import subprocess
import sys

import pytest
from support.forks import Fork
from support.runs import ROOT

FACTS = """\
import atexit, gc, json, os, signal, sys, threading
facts = {
    "signals": {int(number): str(signal.getsignal(number)) for number in signal.valid_signals()},
    "argv": sys.argv,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "open": sorted(os.listdir("/proc/self/fd")),
    "input": sys.stdin.read(),
    "name": __name__,
    "collects": gc.isenabled(),
    "threads": threading.active_count(),
    "leads": os.getsid(0) == os.getpid(),
}
facts["signals"].pop(signal.SIGINT), facts.update(ctrl_c=signal.getsignal(signal.SIGINT) is signal.default_int_handler)
atexit.register(lambda: print("the end"))
threading.Thread(target=lambda: print(json.dumps(facts))).start()
sys.exit(7)
"""


def test_a_fork_is_as_a_new_python(tmp_path):
    script = tmp_path / "facts.py"
    script.write_text(FACTS)
    argv, environment = [str(script), "it's", "$HOME"], {"ONE": "1", "LC_ALL": "C.UTF-8"}
    fork = Fork(argv, environment)
    done = subprocess.run(
        [sys.executable, *argv],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    output, _ = fork.communicate(60)
    assert (fork.returncode, done.returncode) == (7, 7)
    (found, end), (expected, _) = output.splitlines(), done.stdout.splitlines()
    assert json.loads(found) == json.loads(expected) and end == "the end"


def test_one_that_does_not_end_is_ended_and_has_said_what_it_said(tmp_path):
    script = tmp_path / "wait.py"
    script.write_text("import time\nprint('waiting', flush=True)\ntime.sleep(600)\n")
    fork = Fork([str(script)], os.environ)
    with pytest.raises(subprocess.TimeoutExpired):
        fork.communicate(2)
    assert fork.poll() is None
    fork.kill()
    assert fork.communicate(60) == ("waiting\n", None) and fork.returncode == -signal.SIGKILL
