"""train_epochs: the steps in which the training data are read so many times."""

from __future__ import annotations

import numpy
import pytest

from neox.config import epochs
from neox.config.errors import ConfigError
from neox.config.read import config_from_values
from neox.data.store import StoreWriter

LENGTH = 32
MODEL = {"num_layers": 4, "hidden_size": 64, "num_attention_heads": 4, "max_position_embeddings": LENGTH}
KEYS = {**MODEL, "tokenizer_type": "CharLevelTokenizer", "train_batch_size": 4, "num_gpus": 1, "eval_iters": 0}


def write(prefix, lengths) -> str:
    with StoreWriter(prefix, numpy.uint16) as store:
        store.add(numpy.ones(sum(lengths), dtype=numpy.uint16), numpy.array(lengths))
        store.finish()
    return str(prefix)


@pytest.fixture
def prefix(tmp_path) -> str:
    """19 documents of training that hold 1,900 tokens, and one more."""
    return write(tmp_path / "a", [100] * 19 + [5_000])


def test_epochs_become_steps_and_the_schedule_follows(prefix):
    config = config_from_values({**KEYS, "data_path": prefix, "split": "95,5,0", "train_epochs": 3})
    assert config.batch.train_iters == (3 * 1_900 - 1) // LENGTH // 4
    assert config.batch.train_epochs is None
    assert config.optimization.lr_decay_iters == config.batch.train_iters
    half = config_from_values({**KEYS, "data_path": prefix, "train_epochs": 3, "lr_decay_fraction": 0.5})
    assert half.optimization.lr_decay_iters == round(half.batch.train_iters / 2)


def test_a_mixture_is_read_as_often_as_its_files_are_long(prefix, tmp_path, monkeypatch):
    monkeypatch.setattr(epochs, "READ_AT_ONCE", 7)
    other = write(tmp_path / "b", [10] * 50)
    keys = {**KEYS, "train_data_paths": [prefix, other, "not/read"], "train_data_weights": [1, 2, 0]}
    config = config_from_values({**keys, "train_epochs": 2})
    assert config.batch.train_iters == ((2 * 6_900 - 1) // LENGTH + (2 * 500 - 1) // LENGTH) // 4


def test_documents_that_are_kept_whole_are_counted(tmp_path):
    keys = {**KEYS, "data_path": write(tmp_path / "c", [1, 2, 33, 34, 20, 0, 9]), "split": "1, 0, 0", "train_epochs": 8}
    assert config_from_values({**keys, "pack_impl": "unpacked"}).batch.train_iters == 5 * 8 // 4
    assert config_from_values({**keys, "pack_impl": "unpacked", "allow_chopped": False}).batch.train_iters == 4 * 8 // 4


def test_pairs_count_where_both_answers_do(tmp_path):
    paths = [write(tmp_path / name, lengths) for name, lengths in (("p", [2, 33, 34, 20, 9]), ("n", [2, 9, 2, 1, 34]))]
    keys = {**KEYS, "train_impl": "dpo", "dpo_reference_free": True, "pack_impl": "unpacked", "train_epochs": 8}
    keys |= {"pos_train_data_paths": paths[:1], "neg_train_data_paths": paths[1:]}
    assert config_from_values(keys).batch.train_iters == 4 * 8 // 4
    assert config_from_values({**keys, "allow_chopped": False}).batch.train_iters == 2 * 8 // 4


def test_the_steps_cannot_be_counted(prefix, tmp_path):
    def complaint(**keys) -> str:
        with pytest.raises(ConfigError) as caught:
            config_from_values({**KEYS, "train_epochs": 1, **keys})
        (found,) = caught.value.complaints
        return found

    assert "there is no file gone.idx" in complaint(data_path="gone")
    assert "train_iters is given too" in complaint(data_path=prefix, train_iters=5)
    assert "samples, fewer than train_batch_size 4" in complaint(data_path=write(tmp_path / "few", [33, 1, 1]))
    assert "give train_iters" in complaint(data_path=prefix, pack_impl="pack_until_overflow")
    index = tmp_path / "a.idx"
    index.write_bytes(index.read_bytes()[:50])
    assert "a.idx cannot be read, or is cut off" in complaint(data_path=prefix)
    index.write_bytes(b"text, and more of it than a header is long")
    assert "a.idx is not an index of token files" in complaint(data_path=prefix)
