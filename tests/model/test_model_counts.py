"""The plan counts the parameters of the model that is built, for every shipped config."""

from pathlib import Path

import pytest

import deepy
from neox.config.read import read_config
from neox.config.sizes import parameter_counts
from neox.interop.imports import skeleton

CONFIGS = Path(deepy.ROOT, "configs")
MODELS = [path for path in sorted(CONFIGS.rglob("*.yml")) if "num_layers" in path.read_text()]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: str(path.relative_to(CONFIGS).with_suffix("")))
def test_the_plan_counts_what_is_built(path):
    resolved = read_config([path], dry_run=True)
    model = resolved.config.model
    vocab_size, _ = deepy.vocabulary(resolved, dry_run=True)
    built = sum(parameter.numel() for parameter in skeleton(model, vocab_size).parameters())
    assert parameter_counts(model, vocab_size).total == built
