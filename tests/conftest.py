"""Fixtures that many tests share."""

import signal
from pathlib import Path

import hypothesis
import numpy
import pytest
import torch

from neox.config.sections import TokenizerConfig
from neox.data.store import StoreWriter, token_dtype
from neox.tokenizer.tokenizer import build_tokenizer

PROSE = (
    "When the tide goes out, the harbour keeps its boats on the mud, and the gulls walk between them like clerks. "
    "A rope creaks; somebody laughs on the quay; the church clock, four minutes slow, strikes a quarter. {} "
)


def pytest_configure() -> None:
    """No example is timed, and torch has one thread: machines are shared, by the tests themselves too. What this process is started
    from may ignore signals that the launched processes are to hear."""
    torch.set_num_threads(1)
    hypothesis.settings.register_profile("untimed", deadline=None)
    hypothesis.settings.load_profile("untimed")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What starts processes, and waits for them, begins first: none of it is left to one worker of xdist at the end."""
    items.sort(key=lambda item: item.path.parent.name not in ("launch", "distributed", "training"))


@pytest.fixture(scope="session")
def char_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefix of a small data set of 40 documents in the character tokenizer's ids."""
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))
    prefix = tmp_path_factory.mktemp("data") / "harbour_text_document"
    with StoreWriter(prefix, token_dtype(tokenizer.vocab_size)) as store:
        for number in range(40):
            text = "".join(PROSE.format(number * line) for line in range(1, 6))
            tokens = numpy.array([*tokenizer.encode(text), tokenizer.eod], dtype=store.dtype)
            store.add(tokens, numpy.array([tokens.size]))
        store.finish()
    return prefix
