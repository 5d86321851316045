import json
import os
import resource
import subprocess
import sys

import pytest

from neox.monitor.jsonl import JsonLines, read_metrics


def lines(path):
    return (path / "metrics.jsonl").read_text().splitlines()


def test_each_report_is_one_object_that_readers_see_at_once(tmp_path):
    folder = tmp_path / "new" / "logs"
    reporter = JsonLines(folder)
    reporter.report(10, {"train/lm_loss": 3.5, "train/consumed_tokens": 640})
    assert [json.loads(line) for line in lines(folder)] == [
        {"iteration": 10, "train/lm_loss": 3.5, "train/consumed_tokens": 640}
    ]
    reporter.report(20, {"train/lm_loss": 3.25})
    assert len(lines(folder)) == 2
    reporter.close()


def test_numbers_that_json_lacks_are_null(tmp_path):
    reporter = JsonLines(tmp_path)
    reporter.report(1, {"train/lm_loss": float("nan"), "train/grad_norm": float("inf")})
    reporter.close()
    strict = json.loads(lines(tmp_path)[0], parse_constant=pytest.fail)
    assert strict == {"iteration": 1, "train/lm_loss": None, "train/grad_norm": None}


def test_a_restart_appends_after_a_torn_line_and_readers_take_the_last(tmp_path):
    """FAULTS 31 and 32."""
    path = tmp_path / "metrics.jsonl"
    before = b'{"iteration": 1, "a": 1.0}\n{"iteration": 2, "a": 2.0}\n{"iteration": 3, "a": 3'
    path.write_bytes(before)
    assert read_metrics(path) == {1: {"a": 1.0}, 2: {"a": 2.0}}
    reporter = JsonLines(tmp_path)
    reporter.report(2, {"a": 2.5})
    reporter.report(3, {"a": 3.5})
    reporter.close()
    assert path.read_bytes().startswith(before + b"\n"), "only ever appended to"
    assert read_metrics(tmp_path) == {1: {"a": 1.0}, 2: {"a": 2.5}, 3: {"a": 3.5}}


def test_every_finished_report_survives_kill_9(tmp_path):
    """FAULTS 31."""
    program = (
        "import os; from neox.monitor.jsonl import JsonLines; r = JsonLines(os.environ['FOLDER'])\n"
        "for i in range(1, 51): r.report(i, {'a': float(i)})\n"
        "os.kill(os.getpid(), 9)"
    )
    environment = os.environ | {"FOLDER": str(tmp_path), "PYTHONPATH": os.getcwd()}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == -9
    assert list(read_metrics(tmp_path)) == list(range(1, 51))


def test_a_full_disk_costs_lines_not_the_run(tmp_path, capsys):
    reporter = JsonLines(tmp_path)
    reporter.report(1, {"a": 1.0})
    # RLIMIT_FSIZE raises EFBIG where a full disk raises ENOSPC; Python ignores SIGXFSZ
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "metrics.jsonl").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        for iteration in (2, 3, 4):
            reporter.report(iteration, {"a": float(iteration)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    reporter.report(5, {"a": 5.0})
    reporter.close()
    assert read_metrics(tmp_path) == {1: {"a": 1.0}, 5: {"a": 5.0}}
    assert capsys.readouterr().out.count("training goes on") == 1
