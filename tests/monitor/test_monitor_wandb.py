"""Weights & Biases, offline and read back: real wandb, in processes of its own since its state is global."""

import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from neox.config.sections import MonitorConfig
from neox.monitor.weights_and_biases import WeightsAndBiases

ROOT = Path(__file__).parents[2]
CANARY = "canary" + "0123456789" * 4
PROGRAM = '''
import json, os, sys, time
from neox.config.sections import MonitorConfig
from neox.monitor.reporters import build_reporters

keys = json.loads(os.environ["KEYS"])
reporters = build_reporters(
    MonitorConfig(use_wandb=True, **keys["monitor"]), config_dict={"hidden_size": 64}, total_iterations=5,
    is_main=True, wandb_run_id=keys.get("run_id"),
)


def settle():
    """Wait until wandb has taken what it was given, and then for some flush intervals (wandb's own is 15 s)."""
    while not reporters._reporters[-1]._reports.empty():
        time.sleep(0.1)
    time.sleep(5)


for iteration in range(keys.get("first", 1), 6):
    started = time.perf_counter()
    reporters.report(iteration, {"train/lm_loss": 5.0 / iteration})
    print("SECONDS", time.perf_counter() - started)
    if keys.get("then") == "kill core" and iteration == 2:
        settle()
        import psutil
        [core] = [c for c in psutil.Process().children() if "wandb-core" in c.name()]
        core.kill()
if keys.get("then") == "die":
    settle()
    os.kill(os.getpid(), 9)
if keys.get("then") == "raise":
    try:
        raise RuntimeError("the loss is not a number")
    finally:
        reporters.close()
reporters.close()
print("RUN", reporters.wandb_run_id)
'''


def report(tmp_path, environment=None, status=0, **keys):
    """Run PROGRAM with `tmp_path` as its home and working folder; return what it printed."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    clean |= {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "KEYS": json.dumps(keys)} | (environment or {})
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=clean,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=180,
    )
    assert finished.returncode == status, finished.stdout
    return finished.stdout


def records(run_folder, kind):
    """Records of one kind in an offline run, as wandb's own reader gives them."""
    text = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run_folder)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [record[kind] for record in map(json.loads, text.splitlines()) if record["type"] == kind]


def history(run_folder):
    items = [record["item"] for record in records(run_folder, "history")]
    return [(item["_step"], item["iteration"], item["train/lm_loss"]) for item in items]


def offline_runs(tmp_path):
    return sorted(tmp_path.glob("logs/wandb/offline-run-*"))


EXPECTED = [(i, i, pytest.approx(5.0 / i)) for i in range(1, 6)]


def test_without_a_key_the_run_is_recorded_and_the_sync_command_said(tmp_path):
    """FAULTS 30."""
    monitor = {"log_dir": "logs", "wandb_project": "p", "wandb_group": "g", "wandb_team": "t", "wandb_run_name": "n"}
    output = report(tmp_path, monitor=monitor)
    [run_folder] = offline_runs(tmp_path)
    assert history(run_folder) == EXPECTED
    [run] = records(run_folder, "run")
    assert [run[k] for k in ("project", "run_group", "entity", "display_name")] == ["p", "g", "t", "n"]
    assert run["run_id"] == output.rsplit("RUN ", 1)[1].strip()
    assert {"iteration", "*"} <= {m.get("name") or m["glob_name"] for m in records(run_folder, "metric")}
    assert run["config"]["update"]["hidden_size"] == 64
    assert "is offline (no key: set WANDB_API_KEY or run `wandb login`)" in output
    assert output.count("wandb sync") == 1
    command = next(line for line in output.splitlines() if "wandb sync" in line).split("To upload this run: ")[1]
    assert tmp_path / shlex.split(command)[-1] == run_folder


def test_a_dead_server_costs_no_time_and_the_key_is_written_nowhere(tmp_path):
    """FAULTS 29 and 30."""
    output = report(
        tmp_path,
        environment={"WANDB_API_KEY": CANARY},
        monitor={"log_dir": "logs", "wandb_host": "http://127.0.0.1:9"},
        run_id="from0ckp",
    )
    [run_folder] = offline_runs(tmp_path)
    assert history(run_folder) == EXPECTED
    assert "127.0.0.1:9 cannot be reached" in output
    assert output.rsplit("RUN ", 1)[1].strip() == "from0ckp"
    seconds = [float(line.split()[1]) for line in output.splitlines() if line.startswith("SECONDS")]
    assert sorted(seconds)[len(seconds) // 2] < 0.1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert [str(path) for path in files if CANARY.encode() in path.read_bytes()] == []
    assert CANARY not in output


def test_an_error_that_quotes_the_key_is_told_without_it(monkeypatch, capsys):
    """FAULTS 29 and 30."""

    def refuse(*_):
        raise ValueError(f"API key must have 40+ characters, has {CANARY}")

    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setattr(WeightsAndBiases, "_init", refuse)
    tracker = WeightsAndBiases(MonitorConfig(use_wandb=True, wandb_mode="online"), {}, None)
    tracker.report(1, {"train/lm_loss": 5.0})
    tracker.close()
    said = capsys.readouterr().out
    assert "has ***); training goes on without it" in said and CANARY not in said


@pytest.mark.long
def test_a_server_that_never_answers_leads_to_an_offline_run(tmp_path):
    """It takes connections, so the run is tried online, and wandb gives up after a while."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {"WANDB_API_KEY": CANARY}
        output = report(tmp_path, environment=environment, monitor={"log_dir": "logs", "wandb_host": host})
    [run_folder] = offline_runs(tmp_path)
    assert history(run_folder) == EXPECTED
    assert output.count("wandb sync") == 1
    assert CANARY not in output


def test_training_goes_on_when_wandb_dies(tmp_path):
    """FAULTS 30."""
    output = report(tmp_path, monitor={"log_dir": "logs"}, then="kill core")
    assert output.count("training goes on") == 1
    assert output.count("SECONDS") == 5
    assert "Traceback" not in output
    assert len((tmp_path / "logs/metrics.jsonl").read_text().splitlines()) == 5
    [run_folder] = offline_runs(tmp_path)
    assert history(run_folder) == EXPECTED[:2]


def test_a_killed_run_has_every_report_older_than_the_flush_interval_and_its_restart_the_same_id(tmp_path):
    """FAULTS 31 and 32."""
    report(tmp_path, monitor={"log_dir": "logs"}, run_id="same0run", then="die", status=-9)
    report(tmp_path, monitor={"log_dir": "logs"}, run_id="same0run", first=4)
    first, second = offline_runs(tmp_path)
    assert history(first) == EXPECTED
    assert history(second) == EXPECTED[3:]
    assert [records(folder, "run")[0]["run_id"] for folder in (first, second)] == ["same0run"] * 2


def test_a_run_that_fails_is_marked_as_failed(tmp_path):
    report(tmp_path, monitor={"log_dir": "logs"}, then="raise", status=1)
    [run_folder] = offline_runs(tmp_path)
    assert history(run_folder) == EXPECTED
    [end] = records(run_folder, "exit")
    assert end["exit_code"] == 1


def test_wandb_is_not_imported_unless_asked_for(tmp_path):
    program = (
        "import sys; from neox.config.sections import MonitorConfig; from neox.monitor.reporters import build_reporters\n"
        "build_reporters(MonitorConfig(), {}, 5, True, None).close(); assert 'wandb' not in sys.modules"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
