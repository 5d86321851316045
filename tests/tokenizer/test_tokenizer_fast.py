"""The fast way to the ids of byte-level BPE: the same ids as `tokenizers`, or none at all."""

from __future__ import annotations

import json
import pickle

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from neox.tokenizer import fast as fast_module
from neox.tokenizer.fast import GPT2_PATTERN, LLAMA3_PATTERN, fast_encoder, split_long
from neox.tokenizer.sample import hard_sample
from neox.tokenizer.tokenizer import RustTokenizer

TEXTS = [
    "Now is the winter of our discontent made glorious summer by this sun of York; and all the clouds that lour'd",
    "def f(x):\n        return x\n\n\n    # naïve café — 東京 東京 \U0001f600",
]


def trained(pre_tokenizer) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = pre_tokenizer
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    engine.train_from_iterator(
        TEXTS * 4, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    )
    return engine


def gpt2_like() -> tokenizers.Tokenizer:
    engine = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    engine.add_special_tokens(["<|endoftext|>"])
    return engine


def neox_like() -> tokenizers.Tokenizer:
    """As NeoX-20B: composes letters, and knows runs of spaces as tokens."""
    engine = trained(pre_tokenizers.ByteLevel(add_prefix_space=False))
    engine.normalizer = normalizers.NFC()
    engine.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    engine.add_tokens([tokenizers.AddedToken(" " * length, normalized=True) for length in range(24, 1, -1)])
    return engine


def llama3_like() -> tokenizers.Tokenizer:
    """As Llama 3: its own pattern, whole words before merges, and a merge for every way to cut a token."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    engine = trained(split)
    vocabulary = engine.get_vocab()
    merges = [
        (vocabulary[token], vocabulary[token[:cut]], token[:cut], token[cut:])
        for token in vocabulary
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    ]
    pairs = [(left, right) for *_, left, right in sorted(merges)]
    engine.model = models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=True)
    engine.add_special_tokens([f"<|reserved_special_token_{number}|>" for number in range(12)] + ["<|end_of_text|>"])
    return engine


KINDS = {"gpt2": gpt2_like, "neox": neox_like, "llama3": llama3_like}


@pytest.fixture(scope="module", params=KINDS)
def engine(request):
    return KINDS[request.param]()


@pytest.fixture(scope="module")
def tokenizer(engine):
    tokenizer = RustTokenizer(engine, engine.get_vocab_size())
    assert tokenizer.fast is not None
    return tokenizer


def assert_same(tokenizer: RustTokenizer, texts: list[str]) -> None:
    expected = tokenizer.engine.encode_batch(texts, add_special_tokens=False)
    for text, ids, encoding in zip(texts, tokenizer.encode_batch(texts), expected, strict=True):
        assert ids.tolist() == encoding.ids, repr(text)


SPECIAL = ["<|endoftext|>", "<|padding|>", "<|end_of_text|>", "<|reserved_special_token_1|>", "<|", "  "]


@settings(max_examples=150)
@given(pieces=st.lists(st.one_of(st.text(max_size=8), st.sampled_from([*SPECIAL, *hard_sample([])[:60]])), max_size=8))
def test_any_text(tokenizer, pieces):
    assert_same(tokenizer, ["".join(pieces)])


@settings(max_examples=150)
@given(text=st.text(st.sampled_from(" \n\r\t\xa0aB9'sé中!́"), max_size=60))
def test_white_space_and_kinds_of_letters_in_any_order(tokenizer, text):
    assert_same(tokenizer, [text])


def test_letters_of_all_planes(tokenizer):
    letters = [chr(point) for point in range(0, 0x110000, 61) if not 0xD800 <= point < 0xE000]
    assert_same(tokenizer, [f"a{x}b 1{x}2!{x}? {x} {x}{x}\n{x}'{x}" for x in letters])


def test_documents_that_are_too_much_for_the_regex_engine(tokenizer):
    text = "word " * 20_000 + "\t" * 1_100_000 + "x"
    assert_same(tokenizer, [text, "after"])


def test_special_tokens_beside_letters_that_compose(tokenizer):
    assert_same(
        tokenizer, ["<|endoftext|≯ e\u0301 <|endoftext|>", "e\u0301 <|endoftext|≯", "e\u0301\U00016d67\U00016d67"]
    )


def test_parts_of_a_long_text_are_the_text(tokenizer):
    text = "The cat's 12 paws, naïvely. \n\n  so" * 40
    parts = split_long(text, 50)
    assert "".join(parts) == text and len(parts) > 10
    together = [index for part in parts for index in tokenizer.engine.encode(part, add_special_tokens=False).ids]
    assert together == tokenizer.engine.encode(text, add_special_tokens=False).ids
    assert split_long("x" * 100, 50) == ["x" * 100]


def test_survives_the_way_to_a_worker(tokenizer):
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert [ids.tolist() for ids in copy.encode_batch(TEXTS)] == [ids.tolist() for ids in tokenizer.encode_batch(TEXTS)]


def changed(**changes) -> tokenizers.Tokenizer:
    """The GPT-2-like tokenizer with other entries in its description, or in its model's."""
    description = json.loads(gpt2_like().to_str())
    for key, value in changes.items():
        (description if key in description else description["model"])[key] = value
    return tokenizers.Tokenizer.from_str(json.dumps(description))


def swapped_merges() -> list:
    merges = json.loads(gpt2_like().to_str())["model"]["merges"]
    merges[10], merges[11] = merges[11], merges[10]
    return merges


@pytest.mark.parametrize(
    "other",
    [
        lambda: changed(normalizer={"type": "NFKC"}),
        lambda: changed(normalizer={"type": "Lowercase"}),
        lambda: changed(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}),
        lambda: changed(pre_tokenizer=None),
        lambda: changed(dropout=0.1),
        lambda: changed(merges=swapped_merges()),
        lambda: changed(merges=swapped_merges()[:-5]),
        lambda: tokenizers.Tokenizer(models.WordLevel({"a": 0})),
    ],
    ids=["NFKC", "lower case", "space before", "no split", "dropout", "order", "tokens without merges", "words"],
)
def test_no_proof_no_fast_way(other):
    engine = other()
    assert fast_encoder(engine) is None
    assert RustTokenizer(engine, engine.get_vocab_size()).encode_batch(["a"])[0].tolist() == engine.encode("a").ids


def test_added_tokens_that_take_spaces_along_or_begin_alike_have_no_fast_way():
    for tokens in (
        [tokenizers.AddedToken("<mask>", lstrip=True)],
        ["<a>", "<a>b"],
        ["two words"],
        ["   "],
    ):
        engine = gpt2_like()
        engine.add_tokens(tokens)
        assert fast_encoder(engine) is None, tokens


def test_the_sample_finds_a_pattern_that_cuts_otherwise(monkeypatch):
    assert fast_encoder(gpt2_like()) is not None
    monkeypatch.setitem(fast_module.PATTERNS, GPT2_PATTERN, fast_module.PATTERNS[LLAMA3_PATTERN])
    assert fast_encoder(gpt2_like()) is None
