"""Text in pieces is the text of all tokens, whole characters at a time, up to a stop."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from neox.config.sections import TokenizerConfig
from neox.inference.pieces import Pieces
from neox.tokenizer.tokenizer import RustTokenizer, build_tokenizer

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level() -> RustTokenizer:
    """Every byte is a token, and some pairs are; as in GPT-2."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    engine.train_from_iterator(["the tide \u00e9\u00e9 \u4e2d\u6587 \U0001f600\U0001f601"] * 9, trainer)
    return RustTokenizer(engine, 280)


def byte_fallback() -> RustTokenizer:
    """Words with their space before them, and bytes for what it does not know; as in Llama 2."""
    words = ["<unk>", *BYTES, "\u2581", "a", "b", "\u2581a", "\u2581b"]
    model = tokenizers.models.BPE(
        {word: place for place, word in enumerate(words)},
        [("\u2581", "a"), ("\u2581", "b")],
        unk_token="<unk>",
        byte_fallback=True,
    )
    engine = tokenizers.Tokenizer(model)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    engine.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    engine.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return RustTokenizer(engine, len(words))


KINDS = {
    "characters": build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer")),
    "byte-level": byte_level(),
}
WITH_FALLBACK = byte_fallback()
LETTERS = "ab \u00e9\u4e2d\u6587\U0001f600\U0001f601\n"
texts = st.text(st.sampled_from(LETTERS), max_size=20)


def written(tokenizer, ids, prompt=(), stops=()):
    """The pieces of some ids as they come; the last is what the end brings."""
    pieces = Pieces(tokenizer.decode, prompt, stops)
    come = []
    for token in ids:
        come.append(pieces.add(token))
        if pieces.stopped:
            return come
    return [*come, pieces.end()]


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(st.integers(0, 255), max_size=80), prompt=st.lists(st.integers(0, 255), max_size=12))
def test_pieces_of_any_bytes_are_the_whole_text(kind, ids, prompt):
    """Also of bytes that are no text, and after a prompt that ends within a character."""
    tokenizer = KINDS[kind]
    assert "".join(written(tokenizer, ids, prompt)) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(st.sampled_from(LETTERS + "\ufffd"), max_size=20))
def test_no_piece_cuts_a_character(kind, text):
    pieces = written(KINDS[kind], KINDS[kind].encode(text))
    assert "".join(pieces) == text
    assert "".join(pieces).count("\ufffd") == text.count("\ufffd")


@given(first=texts, second=texts)
def test_a_tokenizer_that_falls_back_to_bytes(first, second):
    """The space before a word is kept where it follows a prompt, and characters of several tokens come whole."""
    ids = WITH_FALLBACK.encode(f"a{first}b{second}b")
    cut = len(WITH_FALLBACK.encode(f"a{first}b"))
    assert "".join(written(WITH_FALLBACK, ids[cut:], ids[:cut])) == f"{second}b"


def test_a_character_comes_with_its_last_byte():
    assert written(KINDS["characters"], "a\u00e9\U0001f600".encode()) == [
        "a",
        "",
        "\u00e9",
        "",
        "",
        "",
        "\U0001f600",
        "",
    ]


def test_bytes_that_never_become_a_character_do_not_wait_for_the_end():
    pieces = Pieces(KINDS["characters"].decode, [])
    come = "".join(pieces.add(0xFF) for _ in range(1000))
    assert len(come) > 990
    assert len(pieces._window) <= 65, "and what is decoded again stays short"


@given(text=st.text("abc", max_size=30), stops=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_ends_the_text_before_it_wherever_tokens_end(text, stops):
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    # the one that is whole first ends it; of those that are whole at that letter, the longest
    whole = text[: min(place for end, place in found if end == min(found)[0])] if found else text
    assert "".join(written(KINDS["characters"], text.encode(), stops=stops)) == whole


def test_what_may_begin_a_stop_is_held_back_and_nothing_more():
    assert written(KINDS["characters"], b"x###y\n", stops=["\n\n", "####"]) == ["x", "", "", "", "###y", "", "\n"]
