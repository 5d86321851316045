"""One of two hosts goes in the middle of a run: everything there dies at once, the agent too."""

import os
import subprocess
import sys
import time

from support.clusters import Hosts, hosts
from support.runs import ROOT, curve, finish, write_config


def test_a_run_that_loses_a_host_starts_again_by_itself(tmp_path, char_data):
    """FAULTS 16: within its restarts the run comes back on both hosts, from its newest checkpoint."""
    hostfile = tmp_path / "hostfile"
    hostfile.write_text("".join(f"{address} slots=1\n" for address in Hosts.addresses))
    keys = {"launcher": "pdsh", "hostfile": str(hostfile), "network_interface": Hosts.interface, "max_restarts": 1}
    config = write_config(tmp_path, char_data, train_iters=40, checkpoint_factor=5, eval_interval=100, **keys)
    with hosts(tmp_path / "hosts") as both:
        run = subprocess.Popen(
            both.inside(0, [sys.executable, str(ROOT / "deepy.py"), "train.py", str(config)]),
            cwd=tmp_path,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", **both.environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        while not (tmp_path / "checkpoints" / "latest").exists():
            assert run.poll() is None, run.stdout.read()
            time.sleep(0.1)
        both.lose(1)
        output = finish(run)
    assert "restart 1 of 1" in output
    assert "resumed from" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 40
