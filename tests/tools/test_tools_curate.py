"""The tool that cleans a corpus: planted faults go, all else stays, whatever the number of workers and however often it is stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pydoc_data.topics import topics

import pytest
from support.interrupted import Stopped, stop_after

from neox.data import record_batches
from neox.data.corpus import documents
from neox.data.files import open_alone
from tools import curate
from tools.curation import job as job_module

ROOT = Path(__file__).resolve().parents[2]
CLEAN = {
    name: topics[name] for name in ("booleans", "execmodel", "identifiers", "numeric-types", "objects", "raise", "with")
}
CODE = "\n".join(f"{name}[{number}] = {{{number}: 0x{number:04x}}};" for number, name in enumerate("abcdefgh" * 12))
LETTER = (
    "Dear reader, the harbour office has moved to the old wall, and the clerks who were there before have gone with it. Write to {} "
    "with your questions, or call {} in the morning, when the tide is out and nobody has to be at the boats. The office pays back "
    "what you spent on the way to your card {}, as it was agreed with all of you in the spring of that year."
)
GERMAN = (
    "Das Hafenamt ist in die alte Mauer umgezogen, und die Schreiber sind mit ihm gegangen. Wer eine Frage hat, der schreibe am "
    "Morgen, wenn das Wasser niedrig steht und niemand bei den Booten sein muss. "
)
QUESTION = "How many boats were tied to the old wall of the harbour when the tide went out that morning?"
SECRETS = ["clerk@harbour.example.org", "+44 20 7946 0958", "4111 1111 1111 1111"]


def record(text: str, subset: str = "Manual") -> dict:
    return {"text": text, "meta": {"pile_set_name": subset, "author": SECRETS[0]}}


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Clean documents, and after them one of every fault."""
    planted = [
        record(CLEAN["objects"]),
        record(CLEAN["numeric-types"].replace("The ", "A ", 3)),
        record(GERMAN * 3, "Letters"),
        record("Buy now! " * 80, "Letters"),
        record("Too short.", "Letters"),
        record(CLEAN["booleans"] + QUESTION, "Quiz"),
        record(LETTER.format(*SECRETS), "Letters"),
        record(CODE, "Github"),
    ]
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(record(text)) + "\n" for text in CLEAN.values()))
    (folder / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in planted))
    (tmp_path / "quiz.jsonl").write_text(json.dumps({"question": QUESTION, "answer": "nine"}) + "\n")
    return folder


def arguments(corpus: Path, output: str = "clean", *more: str) -> list[str]:
    folder = corpus.parent
    command = ["--input", str(corpus), "--output", str(folder / output), "--eval", str(folder / "quiz.jsonl")]
    return [*command, "--exempt", "Github", "--workers", "1", *more]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kept(folder: Path) -> list[tuple[str, str]]:
    return [(found.texts[0], found.subset) for path in sorted(folder.glob("part-*")) for found in documents(path)]


def test_planted_faults_go_and_all_else_stays(corpus, capsys):
    assert curate.main(arguments(corpus)) == 0
    output = corpus.parent / "clean"
    assert kept(output) == [
        *((text, "Manual") for text in CLEAN.values()),
        (LETTER.format("[EMAIL]", "[PHONE]", "[CARD]"), "Letters"),
        (CODE, "Github"),
    ]
    report = json.loads((output / "report.json").read_text())
    flows = {
        name: (stage["total"]["documents_in"], stage["total"]["documents_out"])
        for name, stage in report["stages"].items()
    }
    assert flows == {
        "language": (14, 13),
        "gopher": (13, 11),
        "decontaminate": (12, 11),  # with the code, which the stages before let pass
        "redact": (11, 11),
        "exact": (11, 10),
        "near": (10, 9),
    }
    reasons = {name: stage["reasons"] for name, stage in report["stages"].items()}
    assert reasons["language"] == {"de": 1}
    assert reasons["gopher"]["short doc"] == 1 and sum(reasons["gopher"].values()) == 2
    assert reasons["redact"] == {"EMAIL": 1, "PHONE": 1, "CARD": 1}
    assert report["stages"]["gopher"]["subsets"]["Letters"]["documents_in"] == 3
    size = sum(len(text.encode()) for text, _ in kept(output))
    assert report["stages"]["near"]["total"]["bytes_out"] == size

    readable = (output / "report.md").read_text()
    assert "how many boats were tied to the old wall" in readable and "b.jsonl:3: Das Hafenamt" in readable
    assert "report.md tells more" in capsys.readouterr().out
    everything = b"".join(content(output).values()).decode(errors="replace") + json.dumps(kept(output))
    assert not [secret for secret in SECRETS if secret in everything]
    assert not (corpus.parent / "clean.partial").exists()


def test_only_the_stages_asked_for_run(corpus):
    assert (
        curate.main(
            ["--input", str(corpus), "--output", str(corpus.parent / "out"), "--stages", "exact", "--workers", "1"]
        )
        == 0
    )
    texts = [text for text, _ in kept(corpus.parent / "out")]
    raw = [found.texts[0] for path in sorted(corpus.iterdir()) for found in documents(path)]
    assert texts == [text for index, text in enumerate(raw) if text not in raw[:index]]


def test_workers_change_no_byte(corpus, monkeypatch):
    # a batch for each document, so that they can come back in another order
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 1)
    assert curate.main(arguments(corpus, "one")) == 0
    assert curate.main(arguments(corpus, "two", "--workers", "2")) == 0
    assert content(corpus.parent / "two") == content(corpus.parent / "one")
    assert len(kept(corpus.parent / "one")) == len(CLEAN) + 2


def test_stopped_again_and_again_ends_at_the_same_bytes(corpus, monkeypatch):
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 1)
    monkeypatch.setattr(job_module, "PART_BYTES", 3_000)
    # models are loaded once for all runs
    built = job_module.build_stages(job_module.StageOptions(("language", "gopher", "redact")))
    monkeypatch.setattr("tools.curation.curator.build_stages", lambda _: built)
    monkeypatch.setattr(job_module, "build_stages", lambda _: built)

    def job(output: str) -> job_module.CurationJob:
        return job_module.CurationJob([str(corpus)], corpus.parent / output, (*built, "exact", "near"))

    job_module.curate(job("whole"))
    assert len(list((corpus.parent / "whole").glob("part-*"))) > 3
    stops = 0
    while stops < 40:
        try:
            job_module.curate(job("broken"), stop_after(6))
            break
        except Stopped:
            stops += 1
            assert not (corpus.parent / "broken").exists()
            # what a kill leaves behind the last finished part
            with open(corpus.parent / "broken.partial" / "keys-00", "ab") as file:
                file.write(b"\xff" * stops)
    assert 1 < stops < 40
    assert content(corpus.parent / "broken") == content(corpus.parent / "whole")


def test_a_bad_record_stops_it_or_is_counted(corpus, capsys):
    with open(corpus / "a.jsonl", "a") as file:
        file.write("{oops\n")
    assert curate.main(arguments(corpus)) == 2
    assert "a.jsonl:8: it is not JSON" in capsys.readouterr().err
    assert not (corpus.parent / "clean").exists() and not (corpus.parent / "clean.partial").exists()
    assert curate.main(arguments(corpus, "clean", "--on-error", "skip", "--stages", "decontaminate")) == 0
    assert json.loads((corpus.parent / "clean" / "report.json").read_text())["bad records left out"] == 1


def test_two_runs_and_finished_outputs_are_kept_apart(corpus, capsys):
    with open_alone(corpus.parent / "clean.partial" / "lock"):
        assert curate.main(arguments(corpus)) == 2
    assert "another run is writing this output" in capsys.readouterr().err
    (corpus.parent / "clean").mkdir()
    assert curate.main(arguments(corpus)) == 2
    assert "clean: it is there already" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, complaint",
    [
        (["--stages", "langauge"], "langauge is none of language, gopher"),
        (["--stages", "decontaminate"], "decontaminate and --eval need each other"),
        (["--stages", "exact", "--eval", "x.jsonl"], "decontaminate and --eval need each other"),
        (["--workers", "0"], "--workers: at least 1"),
    ],
)
def test_wrong_command_lines(wrong, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        curate.main(["--input", "a.jsonl", "--output", "b", *wrong])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_inputs_that_cannot_be(tmp_path, capsys):
    for name in ("nothing.jsonl", "-"):
        assert curate.main(["--input", name, "--output", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert "nothing.jsonl: there is no such file" in errors and "standard input cannot be read again" in errors
    (tmp_path / "empty.jsonl").touch()
    assert (
        curate.main(["--input", str(tmp_path / "empty.jsonl"), "--output", str(tmp_path / "out"), "--stages", "exact"])
        == 2
    )
    assert "no document in" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.jsonl"]


def test_a_missing_package_is_named(monkeypatch, capsys):
    for name in [name for name in sys.modules if name.startswith(("tools.curation", "phonenumbers"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    assert curate.main(["--input", "a.jsonl", "--output", "b"]) == 2
    assert "error: there is no package phonenumbers: pip install -r requirements-curate.txt" in capsys.readouterr().err


def test_a_signal_stops_it_with_nothing_under_its_name(corpus):
    with open(corpus / "c.jsonl", "w") as file:
        for number in range(500):
            file.write(json.dumps(record(f"{CLEAN['raise']} {number} boats.")) + "\n")
    command = [sys.executable, "tools/curate.py", *arguments(corpus, "clean")]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (corpus.parent / "clean.partial" / "part-00000.jsonl.zst").exists():
        assert running.poll() is None
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait(timeout=60) == 75
    assert "start the same command again" in running.stderr.read()
    assert not (corpus.parent / "clean").exists()
