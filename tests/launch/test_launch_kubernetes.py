"""The manifest that is shipped for Kubernetes: what its schema says of it, whether its names fit together, and what its pods do.

A pod is a network namespace with process numbers, a host name and name resolution of its own, in which the container's command runs
as process 1.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from support.clusters import Hosts, hosts
from support.runs import ROOT, curve, run, write_config

from neox.checkpoint.layout import steps

SERVICE, JOB = yaml.safe_load_all((ROOT / "docs" / "kubernetes.yml").read_text())
CONTAINER = JOB["spec"]["template"]["spec"]["containers"][0]


def test_the_manifest_is_one_of_kubernetes():
    for document in (SERVICE, JOB):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_its_names_and_numbers_fit_together():
    spec, pod = JOB["spec"], JOB["spec"]["template"]["spec"]
    variables = {entry["name"]: entry.get("value") for entry in CONTAINER["env"]}
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(variables["NODES"])
    assert int(variables["GPUS"]) == CONTAINER["resources"]["limits"]["nvidia.com/gpu"]
    assert SERVICE["metadata"]["name"] == pod["subdomain"]
    assert SERVICE["spec"]["selector"] == {"job-name": JOB["metadata"]["name"]}
    assert variables["FIRST"] == f"{JOB['metadata']['name']}-0.{pod['subdomain']}"
    assert (ROOT / variables["CONFIG"]).is_file()


POD = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'
SAVED_AND_STOPPED = 75


class Job:
    """The two pods of the manifest's Job, which starts one again when it fails."""

    def __init__(self, machines: Hosts, folder: Path, **variables: str) -> None:
        self.machines, self.folder = machines, folder
        self.environ = {entry["name"]: entry["value"] for entry in CONTAINER["env"] if "value" in entry} | variables
        self.names = folder / "hosts"
        pods = [f"{address} neox-{index} neox-{index}.neox" for index, address in enumerate(Hosts.addresses)]
        self.names.write_text("\n".join(["127.0.0.1 localhost", *pods, ""]))
        self.pods = [self.start(index) for index in range(2)]
        self.failures = 0

    def start(self, index: int) -> subprocess.Popen:
        words = [*CONTAINER["command"], *CONTAINER["args"]]
        command = [re.sub(r"\$\((\w+)\)", lambda name: self.environ[name[1]], word) for word in words]
        alone = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        given = {"JOB_COMPLETION_INDEX": str(index), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        with open(self.folder / "pods.log", "ab") as log:
            return subprocess.Popen(
                self.machines.inside(index, [*alone, "sh", "-c", POD, "sh", f"neox-{index}", self.names, *command]),
                cwd=ROOT,
                env={
                    **os.environ,
                    **self.environ,
                    **given,
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
                stdout=log,
                stderr=log,
            )

    def wait_for(self, done) -> None:
        """Start again what fails, until this is so."""
        end = time.monotonic() + 150
        while not done():
            for index, pod in enumerate(self.pods):
                if pod.poll() not in (None, 0, SAVED_AND_STOPPED):
                    self.failures += 1
                    self.pods[index] = self.start(index)
            assert time.monotonic() < end, (self.folder / "pods.log").read_text()[-10_000:]
            time.sleep(0.1)

    def delete(self) -> list[int]:
        """SIGTERM to process 1 of each pod; their exit codes."""
        for pod in self.pods:
            first = Path(f"/proc/{pod.pid}/task/{pod.pid}/children").read_text()
            os.kill(int(first), signal.SIGTERM)
        return [pod.wait(60) for pod in self.pods]


@pytest.mark.long
def test_pods_train_survive_the_loss_of_one_save_when_the_job_is_deleted_and_end(tmp_path, char_data):
    """FAULTS 16: torchrun on two machines."""
    config = write_config(tmp_path, char_data, train_iters=150, checkpoint_factor=10, eval_interval=1000)
    checkpoints = tmp_path / "checkpoints"
    with hosts(tmp_path / "machines") as machines:
        job = Job(machines, tmp_path, CONFIG=str(config), GPUS="1")
        job.wait_for(lambda: steps(checkpoints))
        job.pods[1].kill()
        at = steps(checkpoints)[0]
        job.wait_for(lambda: steps(checkpoints)[0] > at + 10)
        assert job.failures == 1, "the other pod has only started its process again"
        assert job.delete() == [SAVED_AND_STOPPED] * 2
        saved = steps(checkpoints)[0]
        assert saved < 150
        again = Job(machines, tmp_path, CONFIG=str(config), GPUS="1")
        again.wait_for(lambda: [pod.poll() for pod in again.pods] == [0, 0])
        assert again.failures == 0
    output = (tmp_path / "pods.log").read_text()
    assert f"at iteration {saved}" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 150


@pytest.mark.long
def test_pods_go_on_after_the_loss_of_the_one_that_they_meet_at(tmp_path, char_data):
    """FAULTS 16: with pod 0 goes what torchrun's agents meet by; the other one fails too, and the Job starts both again."""
    keys = {"train_iters": 60, "checkpoint_factor": 10, "eval_interval": 1000}
    config, checkpoints = write_config(tmp_path, char_data, **keys), tmp_path / "checkpoints"
    with hosts(tmp_path / "machines") as machines:
        job = Job(machines, tmp_path, CONFIG=str(config), GPUS="1")
        job.wait_for(lambda: steps(checkpoints))
        job.pods[0].kill()
        job.wait_for(lambda: [pod.poll() for pod in job.pods] == [0, 0])
        assert job.failures >= 2
    assert re.search(r"resumed from .* at iteration [1-5]0$", (tmp_path / "pods.log").read_text(), re.MULTILINE)
    run("train.py", write_config(tmp_path / "straight", char_data, num_gpus=2, **keys))
    metrics = ("train/lm_loss", "train/grad_norm", "train/consumed_tokens")
    assert curve(tmp_path, *metrics) == curve(tmp_path / "straight", *metrics)
