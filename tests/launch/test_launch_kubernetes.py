"""The manifest that is shipped for Kubernetes: what its schema says of it, and whether its names fit together."""

import kubernetes_validate
import yaml
from support.runs import ROOT

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
