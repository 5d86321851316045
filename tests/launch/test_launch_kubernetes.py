"""The manifest that is shipped for Kubernetes: what its schema says of it, and what its pods run."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import kubernetes_validate
import yaml
from support.runs import ROOT, curve, finish, write_config

from neox.launch.port import free_port

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


def pod(index: int, folder: Path, **variables: str) -> subprocess.Popen:
    """The container's command of one pod, as Kubernetes would run it with these variables instead."""
    environ = {entry["name"]: entry["value"] for entry in CONTAINER["env"] if "value" in entry} | variables
    command = [
        re.sub(r"\$\((\w+)\)", lambda match: environ[match[1]], word)
        for word in [*CONTAINER["command"], *CONTAINER["args"]]
    ]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    machine = {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "JOB_COMPLETION_INDEX": str(index)}
    with open(folder / f"pod{index}.log", "a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, **environ, **machine}, stdout=log, stderr=log, start_new_session=True
        )


def test_a_pod_that_is_lost_comes_back(tmp_path, char_data):
    """FAULTS 16: torchrun's agents meet again when the Job has made a new pod, and the run goes on from its checkpoint."""
    config = write_config(tmp_path, char_data, train_iters=60, checkpoint_factor=5, eval_interval=100)
    variables = {"CONFIG": str(config), "GPUS": "1", "FIRST": "127.0.0.1", "PORT": str(free_port(None))}
    first, second = (pod(index, tmp_path, **variables) for index in (0, 1))
    checkpoints = tmp_path / "checkpoints"
    while not (checkpoints / "latest").exists():
        time.sleep(0.1)
        assert first.poll() is second.poll() is None, (tmp_path / "pod0.log").read_text()
    second.kill()
    second.wait()
    replacement = pod(1, tmp_path, **variables)
    finish(first)
    finish(replacement)
    output = "".join(path.read_text() for path in tmp_path.glob("pod*.log"))
    assert "resumed from" in output
    assert len(curve(tmp_path, "train/lm_loss")) == 60
