"""How much of each pair of token files a mixture takes."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from neox.config.sections import DataConfig
from neox.data.mixtures import mixture
from neox.data.store import StoreWriter


def write(prefix: Path, documents: int) -> str:
    with StoreWriter(prefix, numpy.uint16) as store:
        store.add(numpy.ones(documents, dtype=numpy.uint16), numpy.ones(documents, dtype=numpy.int64))
        store.finish()
    return str(prefix)


def shares(use: str = "train", **data) -> list[float]:
    return [part.share for part in mixture(DataConfig(**data), use)]


def test_shares_are_weights_of_sum_one():
    assert shares(train_data_paths=["a", "b"]) == [0.5, 0.5]
    assert shares(train_data_paths=["a", "b"], train_data_weights=[3, 1]) == [0.75, 0.25]
    assert [
        part.prefix for part in mixture(DataConfig(train_data_paths=["a", "b"], train_data_weights=[0, 1]), "train")
    ]
    assert shares(data_path="a") == []


@pytest.mark.parametrize(("alpha", "expected"), [(1.0, [0.9, 0.1]), (0.5, [0.75, 0.25]), (0.0, [0.5, 0.5])])
def test_documents_to_a_power_are_the_shares(alpha, expected, tmp_path):
    paths = [write(tmp_path / "large", 90), write(tmp_path / "small", 10)]
    data = {"weight_by_num_documents": True, "weighted_sampler_alpha": alpha}
    assert shares(train_data_paths=paths, **data) == pytest.approx(expected)
    assert shares("valid", valid_data_paths=paths[:1], **data) == [1.0]
