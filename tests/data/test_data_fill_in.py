"""Fill-in-the-middle: no letter is lost, the rates are those asked for, and a resumed run reads the same."""

from __future__ import annotations

import numpy
import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import DataConfig, TokenizerConfig
from neox.data.datasets import build_datasets
from neox.data.fill_in import fill_in
from neox.data.store import StoreWriter
from neox.parallel.topology import Topology
from neox.tokenizer.tokenizer import Tokenizer, build_tokenizer

ALONE = Topology(0, 0, 1, 0, 1, 0, 1, 0, 1, torch.device("cpu"), "gloo")
MARKS = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")
TEXT = "The tide goes out, the boats lie on the mud; gulls walk between them like clerks. "
ROOM = [0] * 400  # a sample keeps its length: what follows the documents makes room for the marks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tokenizer.json without marking tokens, and one with them."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator([TEXT], trainer)
    folder = tmp_path_factory.mktemp("tokenizers")
    engine.save(str(folder / "plain.json"))
    engine.add_special_tokens([*MARKS, "<|file|>"])
    engine.save(str(folder / "marked.json"))
    return folder


@pytest.fixture(scope="module")
def marked(files) -> Tokenizer:
    return build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(files / "marked.json")))


def changed(tokenizer: Tokenizer, documents: list[str], number: int = 0, **keys) -> list[str]:
    """Documents in one sample, after fill-in-the-middle."""
    text = [token for document in documents for token in (*tokenizer.encode(document), tokenizer.eod)]
    change = fill_in(DataConfig(**{"fim_rate": 1.0, **keys}), tokenizer, 7)
    found, labels = change(numpy.array(text + ROOM), number)
    assert numpy.array_equal(found, labels)
    assert found.size == len(text) + len(ROOM)
    return tokenizer.decode(found.tolist()).split("<|endoftext|>")[: len(documents)]


def restored(document: str) -> str:
    """A document put together again from what fill-in-the-middle made of it."""
    if not document.startswith(MARKS[0]):
        return document
    first, between = document.removeprefix(MARKS[0]).split(MARKS[1])
    before, after = first.split(MARKS[2])
    return before + between + after  # with the suffix first, `before` is empty and `between` begins with the prefix


texts = st.text(st.characters(exclude_characters="<\ufffd", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=150)
@given(documents=st.lists(texts, min_size=1, max_size=4), number=st.integers(0, 2**40), rate=st.floats(0, 1))
def test_every_letter_is_kept(marked, documents, number, rate):
    found = changed(marked, documents, number, fim_spm_rate=rate)
    assert [restored(document) for document in found] == documents
    assert all(document.startswith(MARKS[0]) for document, text in zip(found, documents) if text)


def test_rates_are_those_asked_for(marked):
    documents = [TEXT] * 10
    keys = {"fim_rate": 0.3, "fim_spm_rate": 0.75}
    found = [document for number in range(200) for document in changed(marked, documents, number, **keys)]
    rearranged = [document for document in found if document.startswith(MARKS[0])]
    suffix_first = [document for document in rearranged if document.startswith(MARKS[0] + MARKS[2])]
    assert len(rearranged) / len(found) == pytest.approx(0.3, abs=0.04)  # 2,000 draws: four standard deviations
    # a cut before the first letter of a PSM looks like SPM: a hundredth or two of them
    assert len(suffix_first) / len(rearranged) == pytest.approx(0.75, abs=0.08)
    cuts = [document.removeprefix(MARKS[0]).index(MARKS[2]) for document in rearranged]
    assert len(set(cuts)) > 40, "cut anywhere"


def test_parts_of_a_document_are_rearranged_for_themselves(marked):
    document = "<|file|>".join([TEXT[:30], "# generated\n", TEXT[30:]])
    keys = {"fim_split_sample": "<|file|>", "fim_fragment_rate": 1.0, "fim_no_prefix": "# generated"}
    first, second, third = changed(marked, [document], **keys)[0].split("<|file|>")
    assert second == "# generated\n"
    assert first.startswith(MARKS[0]) and restored(first) == TEXT[:30]
    assert third.startswith(MARKS[0]) and restored(third) == TEXT[30:]
    assert changed(marked, [document], **{**keys, "fim_fragment_rate": 0.0}) == [document]


def test_a_sample_that_begins_within_a_letter_keeps_that_document(marked):
    tokens = numpy.array([*marked.encode("é")[1:], *marked.encode(TEXT), marked.eod, *marked.encode(TEXT)])
    found, _ = fill_in(DataConfig(fim_rate=1.0), marked, 7)(tokens, 0)
    end = tokens.tolist().index(marked.eod)
    assert found[: end + 1].tolist() == tokens[: end + 1].tolist()
    assert found[end + 1] == marked.token_id(MARKS[0]) and found.size == tokens.size


def test_every_run_reads_the_same(marked, tmp_path):
    with StoreWriter(tmp_path / "a", numpy.uint16) as store:
        for _ in range(30):
            tokens = numpy.array([*marked.encode(TEXT), marked.eod], dtype=numpy.uint16)
            store.add(tokens, numpy.array([tokens.size]))
        store.finish()

    def samples(order, seed=7, **keys):
        data = DataConfig(data_path=str(tmp_path / "a"), split="1", fim_rate=0.5, **keys)
        dataset = build_datasets(data, 64, (20, 0, 0), marked, seed, ALONE).train
        return {index: dataset[index]["tokens"].tolist() for index in order}

    forward = samples(range(20))
    assert samples(reversed(range(20))) == forward and samples([13])[13] == forward[13]
    assert samples(range(20), seed=8) != forward
    alone = samples(range(20), pack_impl="unpacked")
    assert any(marked.token_id(MARKS[1]) in tokens for tokens in alone.values())


def test_tokenizers_that_cannot_do_it(files):
    plain = build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(files / "plain.json")))
    with pytest.raises(ConfigError) as caught:
        fill_in(DataConfig(fim_rate=0.5, fim_suffix_token="<SUF>"), plain, 7)
    assert [complaint.split(":")[0] for complaint in caught.value.complaints] == [
        "fim_prefix_token",
        "fim_middle_token",
        "fim_suffix_token",
    ]
    assert "has no token <SUF>: give the name that it has, or add it" in caught.value.complaints[2]
    engine = tokenizers.Tokenizer.from_file(str(files / "marked.json"))
    engine.normalizer = tokenizers.normalizers.Strip()
    engine.save(str(files / "stripping.json"))
    stripping = build_tokenizer(TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(files / "stripping.json")))
    with pytest.raises(ConfigError, match="fim_rate: the tokenizer changes white space or letters"):
        fill_in(DataConfig(fim_rate=0.5), stripping, 7)
