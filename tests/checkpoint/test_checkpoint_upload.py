"""Checkpoints go to an object store and come back, whole or not at all; training does not notice."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.object_store import KEYS, ObjectStore
from support.runs import ROOT, curve, run_rows

from neox.checkpoint import layout, upload
from neox.checkpoint.layout import CheckpointError, file_entry
from neox.checkpoint.source import Source
from neox.checkpoint.upload import Store, Uploader
from neox.config.errors import ConfigError
from neox.parallel.topology import alone


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    served = ObjectStore(tmp_path_factory.mktemp("store"))
    with served.running():
        yield served


@pytest.fixture(params=["file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty place of each kind."""
    if request.param == "file":
        return f"file://{tmp_path}/far away"
    for name, value in request.getfixturevalue("store").environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://runs/{tmp_path.name}"


def make(save: Path, step: int) -> Path:
    folder = layout.start(save, step)
    (folder / "state.bin").write_bytes(b"weights" * step)
    return layout.publish(save, step, [file_entry(folder / "state.bin")], {})


def test_the_newest_checkpoint_comes_back(url: str, tmp_path: Path) -> None:
    for step in (1, 2):
        Store("checkpoint_upload", url).put(make(tmp_path / "save", step))
    with Source("load", url, alone()) as source:
        folder = source.checkpoint
        assert layout.verify(folder)["iteration"] == 2
        assert (folder / "state.bin").read_bytes() == b"weights" * 2
    assert not folder.parent.exists()


def test_a_place_without_a_checkpoint_is_an_error(url: str) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"), Source("load", url, alone()) as source:
        _ = source.checkpoint


def test_a_byte_that_changed_far_away_is_found(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/far"
    Store("checkpoint_upload", url).put(make(tmp_path / "save", 2))
    (tmp_path / "far" / "global_step2" / "state.bin").write_bytes(b"weightz" * 2)
    with pytest.raises(CheckpointError, match="state.bin: its SHA-256"), Source("load", url, alone()) as source:
        _ = source.checkpoint


@pytest.mark.parametrize("name", ["../../etc", "global_step", ""])
def test_latest_cannot_lead_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "latest").write_text(name)
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        Store("load", f"file://{tmp_path}/far").newest()


def test_wrong_keys_are_told_without_showing_them(store: ObjectStore, monkeypatch, capsys, tmp_path: Path) -> None:
    for name, value in store.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another-secret-canary")
    monkeypatch.setattr(upload, "RETRY_SECONDS", (0.01,))
    uploader = Uploader(Store("checkpoint_upload", "s3://runs/wrong"), timeout_seconds=60)
    uploader.offer(make(tmp_path, 1))
    uploader.close()
    said = capsys.readouterr().err
    assert "given up" in said and "signature" in said and "canary" not in said


def test_a_store_that_is_away_for_a_while_gets_the_checkpoint(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "store").mkdir()
    served, said = ObjectStore(tmp_path / "store"), []
    for name, value in served.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(upload, "RETRY_SECONDS", (0.2,) * 300)
    monkeypatch.setattr(upload, "_say", said.append)
    uploader = Uploader(Store("checkpoint_upload", "s3://runs/late"), timeout_seconds=60)
    uploader.offer(make(tmp_path / "save", 1))
    while not said:
        time.sleep(0.05)
    assert "again in 0.2 s" in said[0] and uploader.in_use() == {"global_step1"}
    with served.running():
        uploader.close()
        assert uploader.in_use() == set()
        assert Store("load", "s3://runs/late").newest() == "global_step1"


def test_while_one_is_copied_the_newest_waits(tmp_path: Path, monkeypatch, capsys) -> None:
    store = Store("checkpoint_upload", f"file://{tmp_path}/far")
    begun, go_on, copied = threading.Event(), threading.Event(), []

    def put(folder: Path) -> None:
        begun.set()
        go_on.wait(30)
        copied.append(folder.name)

    monkeypatch.setattr(store, "put", put)
    uploader = Uploader(store, timeout_seconds=60)
    folders = [make(tmp_path / "save", 1)]
    uploader.offer(folders[0])
    assert begun.wait(30)
    for step in (2, 3):
        uploader.offer(make(tmp_path / "save", step))
    assert uploader.in_use() == {"global_step1", "global_step3"}
    assert layout.prune(tmp_path / "save", 1, uploader.in_use()) == ["global_step2"]
    go_on.set()
    uploader.close()
    assert copied == ["global_step1", "global_step3"]
    assert "global_step2 is not uploaded: global_step3 is newer" in capsys.readouterr().err


def test_what_is_in_the_store_is_not_copied_again(tmp_path: Path, monkeypatch) -> None:
    """A run that is started again offers what it goes on from."""
    first, second, copied = make(tmp_path / "save", 1), make(tmp_path / "save", 2), []
    store = Store("checkpoint_upload", f"file://{tmp_path}/far")
    put_file = store._files.put_file
    monkeypatch.setattr(store._files, "put_file", lambda *names: copied.append(names[0]) or put_file(*names))
    for folder in (first, first, second, second, first):
        store.put(folder)
    once = [[str(folder / name) for name in ("state.bin", "manifest.json")] for folder in (first, second)]
    assert copied == [*once[0], *once[1], *once[0]]
    assert store.newest() == "global_step1"


STORE_WITHOUT_AN_ANSWER = """\
import sys, time
from pathlib import Path
from neox.checkpoint.upload import Store, Uploader
store = Store("checkpoint_upload", "file:///far")
store.put = lambda folder: time.sleep(1000)
uploader = Uploader(store, timeout_seconds=0.1)
uploader.offer(Path("save/global_step7"))
uploader.close()
sys.exit(75)
"""


def test_a_store_that_never_answers_does_not_keep_a_run_from_ending() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STORE_WITHOUT_AN_ANSWER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 75, ended.stderr
    what = "global_step7 is not at file:///far after 0.1 s (checkpoint_upload_timeout_seconds): it is in save/global_step7 alone"
    assert what in ended.stderr and "when it is started again" in ended.stderr


@pytest.mark.parametrize(("url", "words"), [("gs://b/r", "pip install gcsfs"), ("gopher://x", "Protocol not known")])
def test_what_a_url_needs_is_named(url: str, words: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ConfigError, match=words):
        Store("checkpoint_upload", url)


def test_a_run_goes_on_from_the_store(store: ObjectStore, char_data: Path, tmp_path: Path) -> None:
    """The machine is lost after step 2 of 4, which the second start has uploaded; on another one, the run goes on from there."""
    url, keys = "s3://runs/tide", {"num_layers": 2, "checkpoint_factor": 2, "eval_iters": 0}
    lost = {"save": str(tmp_path / "lost" / "checkpoints"), "exit_interval": 2}
    rows = {
        "straight": {},
        "without the store": lost,
        "lost": {**lost, "checkpoint_upload": url, "train_iters": 2},
        "moved": {"load": url},
    }
    said = run_rows(tmp_path, char_data, {name: keys | row for name, row in rows.items()}, **store.environment)
    assert f"loaded {url} (global_step2)" in said
    went_on, straight = curve(tmp_path / "moved", "train/lm_loss"), curve(tmp_path / "straight", "train/lm_loss")
    assert went_on == straight[2:]
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(secret.encode() in content for secret in KEYS.values() for content in [said.encode(), *written])
