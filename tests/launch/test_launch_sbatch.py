"""The job script that is shipped for Slurm, submitted to a real one of two nodes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.clusters import slurm
from support.runs import ROOT, curve, write_config

from neox.checkpoint.layout import steps

KEYS = {"train_iters": 150, "launcher": "slurm", "eval_interval": 1000}


def wait_for(done, log, seconds=180):
    end = time.monotonic() + seconds
    while not done():
        output = log.read_text() if log.exists() else "no output"
        assert time.monotonic() < end and "Traceback" not in output, output
        time.sleep(0.2)


@pytest.mark.long
def test_a_job_saves_on_demand_and_is_queued_again_before_its_time_ends(tmp_path, char_data):
    """FAULTS 12: the signals go to the job's processes, as `--signal` sends them, and each counts once."""
    config = write_config(tmp_path, char_data, **KEYS)
    checkpoints, log = tmp_path / "checkpoints", tmp_path / "job.log"
    with slurm(tmp_path / "slurm") as environ:
        environ = {
            **os.environ,
            **environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CUDA_VISIBLE_DEVICES": "",
            "OMP_NUM_THREADS": "1",
            "WANDB_API_KEY": "canary",
        }

        def command(*words):
            done = subprocess.run(words, env=environ, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            return done.stdout

        def state():
            return command("scontrol", "show", "job", job)

        submit = ["sbatch", "--parsable", "--time=5", "--signal=TERM@30", f"--output={log}", "configs/train.sbatch"]
        job = command(*submit, str(config)).strip()
        wait_for(lambda: log.exists() and "iteration 3/150" in log.read_text(), log)
        command("scancel", "--signal=USR1", job)
        wait_for(lambda: steps(checkpoints), log)
        assert "JobState=RUNNING" in state()
        command("scancel", "--signal=TERM", job)
        wait_for(lambda: "Restarts=1" in state(), log)
        second, first = steps(checkpoints)
        assert first < second < 150, "one checkpoint on demand, one before the end"

        def completed():
            """Slurm lets a job that was queued again wait for two minutes, once its processes have ended; this one need not."""
            now = state()
            if "JobState=PENDING" in now:
                subprocess.run(["scontrol", "update", f"jobid={job}", "starttime=now"], env=environ, check=False)
            return "JobState=COMPLETED" in now

        wait_for(completed, log)
    output = log.read_text()
    assert f"at iteration {second}" in output
    assert "canary" not in output
    assert len(curve(tmp_path, "train/lm_loss")) == 150
