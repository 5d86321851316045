"""Masked language modelling: what is hidden is what is learned, at the rates asked for, and a resumed run reads the same."""

import numpy
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.datasets import build_datasets
from neox.data.masking import masking
from neox.data.store import NO_LABEL, StoreWriter
from neox.parallel.topology import alone
from neox.tokenizer.tokenizer import Tokenizer, build_tokenizer

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    """Of 40 words, and the tokens that a masked model needs."""
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: index for index, word in enumerate(WORDS)}, "w0"))
    engine.add_special_tokens(["<|endoftext|>", "[MASK]"])
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    engine.save(str(path))
    return build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(path)))


@settings(max_examples=150)
@given(
    text=st.lists(st.integers(0, 41), min_size=1, max_size=60),
    number=st.integers(0, 2**40),
    share=st.floats(0.01, 1),
    same=st.floats(0, 1),
)
def test_what_is_hidden_is_what_is_learned(tokenizer, text, number, share, same):
    text = numpy.array(text, dtype=numpy.uint16)
    mask, eod = tokenizer.token_id("[MASK]"), tokenizer.eod
    data = DataConfig(mlm_mask_prob=share, mlm_same_token_prob=same, mlm_random_token_prob=1 - same)
    masked, labels = masking(data, tokenizer, 7)(text, number)
    assert masked.size == labels.size == text.size and labels[0] == NO_LABEL
    chosen = numpy.flatnonzero(labels[1:] != NO_LABEL)
    assert numpy.array_equal(labels[1:][chosen], text[chosen])
    others = numpy.setdiff1d(numpy.arange(text.size), chosen)
    assert numpy.array_equal(masked[others], text[others])
    assert not {mask, eod} & set(text[chosen].tolist()) and eod not in masked[chosen]
    learnable = int(numpy.isin(text[:-1], [mask, eod], invert=True).sum())
    assert chosen.size == (max(1, round(share * learnable)) if learnable else 0)


def test_rates_are_those_of_the_paper(tokenizer):
    change, mask = masking(DataConfig(), tokenizer, 7), tokenizer.token_id("[MASK]")
    text = numpy.arange(2_001) % len(WORDS)
    read, original = [], []
    for number in range(50):
        masked, labels = change(text, number)
        places = numpy.flatnonzero(labels[1:] != NO_LABEL)
        assert places.size == 300
        read.append(masked[places])
        original.append(text[places])
    read, original = numpy.concatenate(read), numpy.concatenate(original)
    # of 15,000: five standard deviations; a random token is the mask or the right one in one of 41 cases each
    assert (read == mask).mean() == pytest.approx(0.8 + 0.1 / 41, abs=0.016)
    assert (read == original).mean() == pytest.approx(0.1 + 0.1 / 41, abs=0.0125)


def test_every_run_reads_the_same(tokenizer, tmp_path):
    random = numpy.random.default_rng(1)
    with StoreWriter(tmp_path / "a", numpy.uint16) as store:
        for _ in range(30):
            tokens = numpy.append(random.integers(0, 40, 50), tokenizer.eod).astype(numpy.uint16)
            store.add(tokens, numpy.array([tokens.size]))
        store.finish()

    def samples(order, train_impl="mlm", seed=7, **keys):
        data = DataConfig(data_path=str(tmp_path / "a"), split="1", **keys)
        dataset = build_datasets(data, 64, (20, 0, 0), tokenizer, seed, alone(), train_impl).train
        return {index: dataset[index] for index in order}

    forward, plain = samples(range(20)), samples(range(20), "normal")
    backward = samples(reversed(range(20)))
    for index, sample in forward.items():
        assert all(torch.equal(part, backward[index][name]) for name, part in sample.items())
        learned = sample["loss_mask"] > 0
        assert 8 <= learned.sum() <= 10
        assert torch.equal(sample["labels"][learned], plain[index]["tokens"][learned]), "labels stand at their tokens"
        assert torch.equal(sample["tokens"][~learned], plain[index]["tokens"][~learned])
    assert not torch.equal(forward[0]["loss_mask"], forward[1]["loss_mask"])
    padded = samples(range(20), pack_impl="unpacked", reset_attention_mask=True)
    assert all(sample["loss_mask"][51:].sum() == 0 and sample["loss_mask"].sum() == 8 for sample in padded.values())


def test_a_tokenizer_without_the_mask_token(tokenizer):
    with pytest.raises(ConfigError, match="mlm_mask_token: the tokenizer has no token <mask>: give the name that it"):
        masking(DataConfig(mlm_mask_token="<mask>"), tokenizer, 7)
