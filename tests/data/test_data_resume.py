"""A preprocessing job that is stopped at any moment goes on to the same bytes, and two never work on one output."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.interrupted import Stopped, stop_after

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.data import preprocess as preprocess_module
from neox.data import record_batches
from neox.data.preprocess import PreprocessJob, preprocess
from neox.data.workplace import Workplace

ROOT = Path(__file__).parents[2]
CHARACTERS = TokenizerConfig(tokenizer_type="CharLevelTokenizer")
SUFFIXES = (".bin", ".json", ".idx")
DRAW = random.Random(7)


@pytest.fixture
def corpora(tmp_path, monkeypatch) -> list[str]:
    """Three files with an empty and a bad record, in batches of a few records; every batch is saved."""
    for number in range(3):
        lines = [json.dumps({"text": f"{number} {line} " * (line % 5), "title": f"T{line}"}) for line in range(40)]
        (tmp_path / f"{number}.jsonl").write_text("\n".join([*lines[:20], "{bad", *lines[20:]]) + "\n")
    monkeypatch.setattr(record_batches, "BATCH_BYTES", 60)
    monkeypatch.setattr(preprocess_module, "SECONDS_BETWEEN_SAVES", 0.0)
    return [str(tmp_path / f"{number}.jsonl") for number in range(3)]


def job(corpora: list[str], name: str, **changes) -> PreprocessJob:
    prefix = str(Path(corpora[0]).with_name(name))
    settings = PreprocessJob(
        corpora, prefix, CHARACTERS, ("text", "title"), append_eod=True, skip_bad_records=True, num_docs=110
    )
    return dataclasses.replace(settings, **changes)


def content(work: PreprocessJob) -> list[bytes]:
    return [Path(work.key_prefix(key) + suffix).read_bytes() for key in work.jsonl_keys for suffix in SUFFIXES]


def test_stopped_again_and_again(corpora):
    whole, broken = job(corpora, "whole"), job(corpora, "broken")
    preprocess(whole)
    stops = 0
    while True:
        try:
            result = preprocess(broken, stop_after(7))
            break
        except Stopped:
            stops += 1
            assert not list(Path(corpora[0]).parent.glob("broken_*"))
            # what a kill leaves behind the last saved state, and what a torn page of it would be
            with open(Path(f"{broken.prefix}.partial") / "broken_text_document.bin", "ab") as file:
                file.write(b"\xff" * stops)
    assert stops > 5
    assert content(whole) == content(broken)
    assert result.tally.records == 110 and result.tally.bad_records == 3
    assert not Path(f"{broken.prefix}.partial").exists()


@pytest.mark.parametrize("moment", range(14))
def test_stopped_while_files_are_made_and_named(corpora, monkeypatch, moment):
    """The run dies at each of the steps after the last batch: a state kept, a file written, a file named, the folder removed."""
    whole, broken = job(corpora, "whole"), job(corpora, "broken")
    preprocess(whole)
    steps = [moment]

    def dying(original):
        def step(*arguments, **keywords):
            steps[0] -= 1
            if steps[0] < 0:
                raise Stopped
            return original(*arguments, **keywords)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(preprocess_module._Run, "_save", dying(preprocess_module._Run._save))
        patch.setattr(preprocess_module, "SECONDS_BETWEEN_SAVES", 1e9)  # only the last save
        patch.setattr(preprocess_module, "write_durably", dying(preprocess_module.write_durably))
        patch.setattr(preprocess_module.StoreWriter, "finish", dying(preprocess_module.StoreWriter.finish))
        for name in ("replace", "unlink"):
            patch.setattr(os, name, dying(getattr(os, name)))
        with pytest.raises(Stopped):
            preprocess(broken)
            raise Stopped  # more steps than there are
    for key in broken.jsonl_keys:
        if Path(f"{broken.key_prefix(key)}.idx").exists():
            assert all(Path(broken.key_prefix(key) + suffix).exists() for suffix in SUFFIXES)
    preprocess(broken)
    assert content(whole) == content(broken)


def test_another_job_is_not_continued(corpora):
    with pytest.raises(Stopped):
        preprocess(job(corpora, "out"), stop_after(5))
    with pytest.raises(ConfigError, match="another job broke off here, with other append-eod, num-docs: .*--overwrite"):
        preprocess(job(corpora, "out", append_eod=False, num_docs=None))
    Path(corpora[1]).write_text(Path(corpora[1]).read_text() + "\n")
    with pytest.raises(ConfigError, match="with other input: "):
        preprocess(job(corpora, "out"))
    preprocess(job(corpora, "out", overwrite=True))
    preprocess(job(corpora, "fresh"))
    assert content(job(corpora, "out")) == content(job(corpora, "fresh"))


def test_after_a_bad_record_one_may_go_on_without_it(corpora):
    strict = job(corpora, "out", skip_bad_records=False)
    with pytest.raises(ConfigError, match="0.jsonl:21: it is not JSON"):
        preprocess(strict)
    assert Path(f"{strict.prefix}.partial").exists()
    preprocess(job(corpora, "out", workers=2))
    preprocess(job(corpora, "whole"))
    assert content(job(corpora, "out")) == content(job(corpora, "whole"))


def test_corpus_that_changes_under_the_run(corpora):
    def append(_) -> None:
        Path(corpora[2]).write_text("x")

    with pytest.raises(ConfigError, match="2.jsonl: it changed while it was read"):
        preprocess(job(corpora, "out", num_docs=50), append)


def test_one_run_at_a_time(tmp_path):
    """FAULTS 22."""
    with Workplace(tmp_path / "out", {}) as workplace:
        with (
            pytest.raises(ConfigError, match="out.partial: another run is writing this output"),
            Workplace(tmp_path / "out", {}),
        ):
            pass
        assert workplace.folder.exists()
    assert not workplace.folder.exists()
    with Workplace(tmp_path / "out", {}):
        pass


def tool(corpora: list[str], name: str, *others: str) -> subprocess.Popen:
    command = [
        sys.executable,
        "tools/preprocess_data.py",
        "--input",
        *corpora,
        "--tokenizer-type",
        "CharLevelTokenizer",
    ]
    command += ["--output-prefix", str(Path(corpora[0]).with_name(name)), "--on-error", "skip", *others]
    return subprocess.Popen(
        command, cwd=ROOT, start_new_session=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )


@pytest.fixture
def large(tmp_path) -> list[str]:
    path = tmp_path / "corpus.jsonl"
    path.write_text((json.dumps({"text": "word " * 50_000}) + "\n") * 200)  # 50 MB: seconds of work
    return [str(path)]


def test_killed_with_all_its_processes_and_stopped_politely(large, tmp_path):
    """FAULTS 22."""
    reference = tool(large, "whole", "--workers", "1")
    assert reference.wait() == 0
    for sent in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
        stop_at_work(tool(large, "out", "--workers", "2"), tmp_path / "out.partial" / "out_text_document.bin", sent)
        assert not list(tmp_path.glob("out_*"))
        if sent == signal.SIGTERM:
            assert (tmp_path / "out.partial" / "state.json").exists()
    assert tool(large, "out", "--workers", "2").wait() == 0
    for suffix in SUFFIXES:
        whole, out = (tmp_path / f"{name}_text_document{suffix}" for name in ("whole", "out"))
        assert whole.read_bytes() == out.read_bytes()


def stop_at_work(child: subprocess.Popen, partial: Path, sent: int) -> None:
    """Send a signal to the tool some time after it has begun to write."""
    before = partial.stat().st_size if partial.exists() else 0
    wait_until(lambda: child.poll() is not None or (partial.exists() and partial.stat().st_size > before))
    time.sleep(DRAW.random() * 0.3)
    os.kill(child.pid, sent)
    code, errors = child.wait(), child.stderr.read().decode()
    wait_until(lambda: not processes(child.pid))
    if sent == signal.SIGTERM:
        assert code == 75 and "start the same command again to go on" in errors


def wait_until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def processes(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, leader = path.read_text().rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(leader) == session and state != "Z":
            found.append(int(path.parent.name))
    return found
