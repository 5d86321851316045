"""Each kind of tokenizer: exact ids, exact round trips, and errors that name the file."""

from __future__ import annotations

import base64
import json
import random
import shutil

import numpy
import pytest
import sentencepiece
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.tokenizer.tokenizer import build_tokenizer
from neox.tokenizer.vocabulary import file_hashes, read_vocab_size

TEXTS = [
    "Now is the winter of our discontent",
    "made glorious summer\n\n by this sun of York;",
    "  naïve café — 東京 \U0001f600",
    "",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of a small byte-level BPE trained here: vocab.json and merges.txt without, tokenizer.json with its special
    tokens."""
    folder = tmp_path_factory.mktemp("tokenizers")
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(TEXTS * 3, trainer)
    engine.model.save(str(folder))
    engine.add_special_tokens(["<|endoftext|>", "<|padding|>"])
    engine.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def gpt2(folder):
    return TokenizerConfig(vocab_file=str(folder / "vocab.json"), merge_file=str(folder / "merges.txt"))


@pytest.fixture(scope="module")
def hf(folder):
    return TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(folder / "tokenizer.json"))


def test_folder_of_a_hugging_face_tokenizer(hf, gpt2, sentencepiece_model, tmp_path):
    """Its files are found by their names, and the end of a text is what its tokenizer_config.json says."""
    config = TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(tmp_path))
    with pytest.raises(ConfigError, match=r"has no tokenizer: none of tokenizer\.json, vocab\.json with merges\.txt"):
        build_tokenizer(config)
    for alone, names in (
        (sentencepiece_model, {"tokenizer.model": sentencepiece_model.vocab_file}),
        (gpt2, {"vocab.json": gpt2.vocab_file, "merges.txt": gpt2.merge_file}),
        (hf, {"tokenizer.json": hf.vocab_file}),
    ):
        for name, source in names.items():
            shutil.copyfile(source, tmp_path / name)
        ids = [build_tokenizer(one).encode(TEXTS[0]) for one in (config, alone)]
        assert ids[0] == ids[1]
        assert read_vocab_size(config) == read_vocab_size(alone)
        assert file_hashes(config) == file_hashes(alone)
    assert build_tokenizer(config).eod == build_tokenizer(hf).eod
    for declared in ("<|padding|>", {"content": "<|padding|>", "lstrip": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": declared}))
        assert build_tokenizer(config).eod == build_tokenizer(hf).engine.token_to_id("<|padding|>")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|gone|>"}')
    with pytest.raises(ConfigError, match=r"ends texts with '<\|gone\|>', which its vocabulary does not have"):
        build_tokenizer(config)


@pytest.fixture(scope="module")
def sentencepiece_model(tmp_path_factory):
    words = [
        "now",
        "is",
        "the",
        "winter",
        "of",
        "our",
        "discontent",
        "made",
        "glorious",
        "summer",
        "by",
        "this",
        "sun",
        "of",
        "york",
    ]
    draw = random.Random(1)
    prefix = tmp_path_factory.mktemp("spm") / "small"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(draw.choices(words, k=8)) for _ in range(200)),
        model_prefix=str(prefix),
        vocab_size=36,
        byte_fallback=False,
        user_defined_symbols=["<|endoftext|>"],
        minloglevel=2,
    )
    return TokenizerConfig(tokenizer_type="SPMTokenizer", vocab_file=f"{prefix}.model")


def test_gpt2_bpe_round_trips_and_merges(gpt2):
    tokenizer = build_tokenizer(gpt2)
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) <= len(text.encode())
    assert len(tokenizer.encode(TEXTS[0])) < len(TEXTS[0]), "the merges are not used"


def test_gpt2_files_without_the_end_token_get_it_as_the_next_id(gpt2, folder):
    entries = json.loads((folder / "vocab.json").read_text())
    assert "<|endoftext|>" not in entries
    tokenizer = build_tokenizer(gpt2)
    assert tokenizer.eod == len(entries)
    assert tokenizer.vocab_size == len(entries) + 1 == read_vocab_size(gpt2)
    assert tokenizer.encode("sun<|endoftext|>sun")[-len(tokenizer.encode("sun")) - 1] == tokenizer.eod


def test_gpt2_and_its_tokenizer_json_give_the_same_ids(gpt2, hf):
    for text in TEXTS:
        assert build_tokenizer(gpt2).encode(text) == build_tokenizer(hf).encode(text)


def test_hf_counts_added_tokens_and_finds_the_end_token(hf):
    tokenizer = build_tokenizer(hf)
    assert tokenizer.engine.get_vocab_size() == tokenizer.vocab_size == read_vocab_size(hf)
    assert tokenizer.eod == tokenizer.engine.token_to_id("<|endoftext|>")


def test_hf_with_a_gap_in_its_ids_counts_up_to_the_largest(tmp_path):
    vocabulary = {"<unk>": 0, "a": 1, "b": 70_000}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.save(str(tmp_path / "tokenizer.json"))
    config = TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(tmp_path / "tokenizer.json"))
    tokenizer = build_tokenizer(config)
    assert tokenizer.vocab_size == read_vocab_size(config) == 70_001
    assert tokenizer.eod is None
    assert tokenizer.encode("b") == [70_000]


def test_hf_leaves_out_template_tokens_padding_and_truncation(tmp_path, folder):
    engine = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    end = engine.token_to_id("<|endoftext|>")
    engine.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", end)]
    )
    engine.enable_padding(length=50)
    engine.enable_truncation(max_length=4)
    engine.save(str(tmp_path / "tokenizer.json"))
    tokenizer = build_tokenizer(
        TokenizerConfig(tokenizer_type="HFTokenizer", vocab_file=str(tmp_path / "tokenizer.json"))
    )
    ids = tokenizer.encode(TEXTS[0])
    assert end not in ids and tokenizer.decode(ids) == TEXTS[0]


def test_characters_are_bytes_as_in_gpt_neox():
    tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))
    assert (tokenizer.vocab_size, tokenizer.eod) == (512, 0)
    assert tokenizer.encode("Aé\n") == [65, 195, 169, 10]
    assert tokenizer.decode([65, 300, 66]) == "A\ufffdB"


def test_sentencepiece(sentencepiece_model):
    tokenizer = build_tokenizer(sentencepiece_model)
    assert tokenizer.decode(tokenizer.encode("the winter of our sun")) == "the winter of our sun"
    assert tokenizer.vocab_size == tokenizer.engine.get_piece_size() == read_vocab_size(sentencepiece_model) == 36
    assert tokenizer.eod == tokenizer.engine.piece_to_id("<|endoftext|>")


@pytest.fixture(scope="module")
def tiktoken_file(tmp_path_factory):
    """All bytes and one merge, in the format of tiktoken, under the name of an encoding whose pattern is then used."""
    path = tmp_path_factory.mktemp("tiktoken") / "cl100k_base.tiktoken"
    tokens = [bytes([byte]) for byte in range(256)] + [b"su"]
    path.write_text("".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)))
    return path


def test_tiktoken_from_a_file(tiktoken_file):
    config = TokenizerConfig(tokenizer_type="TiktokenTokenizer", vocab_file=str(tiktoken_file))
    tokenizer = build_tokenizer(config)
    assert tokenizer.encode("sun<|endoftext|>") == [256, ord("n"), 100_257]
    assert tokenizer.eod == 100_257
    assert tokenizer.vocab_size == read_vocab_size(config) == 100_277
    for text in TEXTS:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_tiktoken_file_that_names_no_encoding(tiktoken_file, tmp_path):
    other = tmp_path / "mine.tiktoken"
    other.write_bytes(tiktoken_file.read_bytes())
    with pytest.raises(ConfigError, match=r"mine\.tiktoken.*cl100k_base"):
        build_tokenizer(TokenizerConfig(tokenizer_type="TiktokenTokenizer", vocab_file=str(other)))


def test_batches_are_arrays_equal_to_single_encodings(gpt2, hf, sentencepiece_model, tiktoken_file):
    tiktoken = TokenizerConfig(tokenizer_type="TiktokenTokenizer", vocab_file=str(tiktoken_file))
    for config in (gpt2, hf, sentencepiece_model, tiktoken, TokenizerConfig(tokenizer_type="CharLevelTokenizer")):
        tokenizer = build_tokenizer(config)
        batch = tokenizer.encode_batch(TEXTS)
        assert all(isinstance(ids, numpy.ndarray) and ids.dtype.kind in "iu" for ids in batch)
        assert [ids.tolist() for ids in batch] == [tokenizer.encode(text) for text in TEXTS]
        assert tokenizer.encode_batch([]) == []


@settings(max_examples=50)
@given(text=st.text(max_size=60))
def test_byte_level_tokenizers_lose_nothing(gpt2, text):
    for config in (gpt2, TokenizerConfig(tokenizer_type="CharLevelTokenizer")):
        tokenizer = build_tokenizer(config)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_of_another_vocabulary_are_refused(folder, tmp_path):
    merges = tmp_path / "merges.txt"
    merges.write_text("#version: 0.2\nzzz qqq\n")
    with pytest.raises(ConfigError, match=r"merge_file: .*merges\.txt does not fit"):
        build_tokenizer(TokenizerConfig(vocab_file=str(folder / "vocab.json"), merge_file=str(merges)))
