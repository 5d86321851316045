"""The doctor: what it finds on this machine, and on one that lacks something."""

import json
import subprocess
import sys
from pathlib import Path

from tools import doctor

ROOT = Path(doctor.ROOT)


def test_this_machine_can_run():
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "doctor.py", "--json"], capture_output=True, text=True, timeout=120
    )
    findings = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == 0, [finding for finding in findings.values() if finding["state"] == "fail"]
    assert findings["python"]["detail"].startswith("3.")
    assert {"torch", "deepspeed", "gloo", "cuda", "dataset helpers", "/dev/shm", "srun", "wandb key"} <= set(findings)
    assert done.stderr == ""


def test_packages_are_held_against_their_pins(tmp_path, monkeypatch):
    (tmp_path / "requirements.txt").write_text("# pins\nnot-there==1.0\nrich==0.0.1\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    missing, other = doctor.packages()
    assert (missing.state, missing.mend) == ("fail", "python -m pip install 'not-there==1.0'")
    assert other.state == "warn"
    assert "tested with 0.0.1" in other.mend


def test_no_key_is_shown(monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "canary")
    monkeypatch.setattr(doctor, "CHECKS", [doctor.weights_and_biases])
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    assert doctor.main() == 0
    printed = capsys.readouterr().out
    assert "WANDB_API_KEY" in printed
    assert "canary" not in printed


def test_a_failure_is_the_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", [lambda: iter([doctor.Finding("thing", "fail", "broken", "mend it")])])
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    assert doctor.main() == 1
    assert "mend it" in capsys.readouterr().out
