"""Turn text into ids and back, behind one small interface. Knows nothing about models, and never pads."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy
import tiktoken
import tokenizers

from neox.config.errors import ConfigError
from neox.config.sections import TokenizerConfig
from neox.tokenizer.encodings import END_OF_DOCUMENT, TIKTOKEN_ENCODINGS
from neox.tokenizer.fast import FastEncoder, fast_encoder, split_long
from neox.tokenizer.vocabulary import (
    declared_end,
    located,
    read_gpt2_vocabulary,
    read_tiktoken_ranks,
    read_vocab_size,
    required_file,
    tiktoken_encoding,
)

# tokens that end a document in the vocabularies of others, in the order of preference
END_TOKENS = (END_OF_DOCUMENT, "<|end_of_text|>", "</s>", "<eos>")


SLOW_PART = 1_000_000  # characters given to `tokenizers` at a time


class Tokenizer(ABC):
    """Text to ids and back. `vocab_size` counts every id, special tokens included, before padding; `eod` is the id that
    ends a document, None where the vocabulary has none."""

    vocab_size: int
    eod: int | None

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self.encode_batch([text])[0].tolist()

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        """The ids of each text, an array of integers (length,)."""

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids; bytes that are not UTF-8 become the replacement character."""

    @abstractmethod
    def token_id(self, name: str) -> int | None:
        """The id of a special token by its name, None where there is none of it."""


class RustTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library; its byte-level BPE encodes through tiktoken where that gives the same ids."""

    def __init__(self, engine: tokenizers.Tokenizer, vocab_size: int, ends: Sequence[str] = END_TOKENS):
        self.engine = engine
        self.engine.no_padding()
        self.engine.no_truncation()
        self.vocab_size = vocab_size
        self.eod = next((index for token in ends if (index := engine.token_to_id(token)) is not None), None)

    @cached_property
    def fast(self) -> FastEncoder | None:
        """The fast way to the same ids, where there is one. Found when it is first asked for, which takes half a second."""
        return fast_encoder(self.engine)

    def encode(self, text: str) -> list[int]:
        # not worth the time of finding the fast way
        return self.engine.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        if self.fast is None:
            return self._encode_slowly(texts)
        results = (self.fast.encode(text) for text in texts)
        return [self._encode_in_parts(text) if ids is None else ids for text, ids in zip(texts, results)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.engine.decode(ids, skip_special_tokens=False)

    def token_id(self, name: str) -> int | None:
        return self.engine.token_to_id(name)

    def _encode_slowly(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        # the documents' end is written by whoever stores them, so the template's special tokens stay out
        encodings = self.engine.encode_batch_fast(texts, add_special_tokens=False)
        return [numpy.fromiter(ids, dtype=numpy.uint32, count=len(ids)) for ids in (e.ids for e in encodings)]

    def _encode_in_parts(self, text: str) -> numpy.ndarray:
        """A text that the fast way leaves out; `tokenizers` takes some 130 bytes of memory for each letter, so not all at once."""
        return numpy.concatenate([self._encode_slowly([part])[0] for part in split_long(text, SLOW_PART)])


class CharLevelTokenizer(Tokenizer):
    """The bytes of the text, as in gpt-neox: 512 ids of which 256 are used, and 0 ends a document."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self.eod = 0

    def encode_batch(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        return [numpy.frombuffer(text.encode(), dtype=numpy.uint8) for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        # an untrained model also samples ids of the padding: 0xff is never UTF-8, so they show as the replacement
        return bytes(min(int(index), 0xFF) for index in ids).decode(errors="replace")

    def token_id(self, _name: str) -> None:
        return None  # it has none, beside the end of a document


class SPMTokenizer(Tokenizer):
    """A sentencepiece model."""

    def __init__(self, config: TokenizerConfig, ends: Sequence[str]):
        try:
            import sentencepiece  # noqa: PLC0415 (optional package)
        except ImportError as error:
            raise ConfigError("tokenizer_type: SPMTokenizer needs `pip install sentencepiece`") from error
        path = required_file(config, "vocab_file")
        self.vocab_size = read_vocab_size(config)
        try:
            self.engine = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"vocab_file: {path} is not a sentencepiece model ({error})") from error
        known = (self.engine.piece_to_id(token) for token in ends)
        self.eod = next((index for index in known if index != self.engine.unk_id()), None)

    def encode_batch(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        return [numpy.array(ids, dtype=numpy.int32) for ids in self.engine.encode(list(texts), num_threads=1)]

    def decode(self, ids: Sequence[int]) -> str:
        return self.engine.decode([int(index) for index in ids])

    def token_id(self, name: str) -> int | None:
        found = self.engine.piece_to_id(name)
        return None if found == self.engine.unk_id() else found


class TiktokenTokenizer(Tokenizer):
    """An encoding of tiktoken: by name (tiktoken fetches and caches it), or from a .tiktoken file named after it."""

    def __init__(self, config: TokenizerConfig):
        name, path = tiktoken_encoding(config)
        self.vocab_size = read_vocab_size(config)
        if path is None:
            self.engine = _fetch_encoding(name)
        else:
            ranks = read_tiktoken_ranks(path)
            if max(ranks.values()) >= self.vocab_size:
                raise ConfigError(f"vocab_file: {path} has more than the {self.vocab_size:,} ids of {name}")
            encoding = TIKTOKEN_ENCODINGS[name]
            self.engine = tiktoken.Encoding(
                name, pat_str=encoding.pattern, mergeable_ranks=ranks, special_tokens=encoding.special_tokens
            )
        self.eod = self.engine.eot_token

    def encode_batch(self, texts: Sequence[str]) -> list[numpy.ndarray]:
        return [self.engine.encode_to_numpy(text, allowed_special="all") for text in texts]

    def decode(self, ids: Sequence[int]) -> str:
        return self.engine.decode([int(index) for index in ids], errors="replace")

    def token_id(self, name: str) -> int | None:
        known = name in self.engine.special_tokens_set
        return self.engine.encode_single_token(name) if known else None


def joins_exactly(tokenizer: Tokenizer) -> bool:
    """Whether a text that is encoded in parts comes back letter by letter: not where the tokenizer adds spaces, or normalises."""
    parts = [" a\n\n  b", "\té ", "c"]
    return tokenizer.decode([index for part in parts for index in tokenizer.encode(part)]) == "".join(parts)


def build_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """The tokenizer of the configuration; ConfigError that names the file where one is missing or wrong."""
    # Our parallelism is worker processes, one thread each; threads would also make `tokenizers` warn at every fork.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    declared = declared_end(config)
    files = located(config)
    tokenizer = BUILDERS[files.tokenizer_type](files, END_TOKENS if declared is None else (declared,))
    if declared is not None and tokenizer.eod is None:
        raise ConfigError(
            f"vocab_file: {config.vocab_file} ends texts with {declared!r}, which its vocabulary does not have"
        )
    return tokenizer


def _gpt2(config: TokenizerConfig, ends: Sequence[str]) -> RustTokenizer:
    vocabulary = read_gpt2_vocabulary(config)
    path = required_file(config, "merge_file")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        merges = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        model = tokenizers.models.BPE(vocab=vocabulary, merges=merges)
    except Exception as error:  # `tokenizers` raises bare Exception for a merge that the vocabulary lacks
        raise ConfigError(f"merge_file: {path} does not fit the vocabulary {config.vocab_file} ({error})") from error
    engine = tokenizers.Tokenizer(model)
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    engine.add_special_tokens([END_OF_DOCUMENT])
    return RustTokenizer(engine, len(vocabulary), ends)


def _hf(config: TokenizerConfig, ends: Sequence[str]) -> RustTokenizer:
    path = required_file(config, "vocab_file")
    vocab_size = read_vocab_size(config)
    try:
        engine = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises bare Exception
        raise ConfigError(
            f"vocab_file: {path} is not a tokenizer.json of the `tokenizers` library ({error})"
        ) from error
    return RustTokenizer(engine, vocab_size, ends)


def _fetch_encoding(name: str) -> tiktoken.Encoding:
    """A published encoding, from tiktoken's cache or its server."""
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # whatever the HTTP library raises
        raise ConfigError(
            f"vocab_file: tiktoken could not fetch {name} ({error}): give the path of a file {name}.tiktoken instead"
        ) from error


BUILDERS = {
    "GPT2BPETokenizer": _gpt2,
    "HFTokenizer": _hf,
    "CharLevelTokenizer": lambda config, _: CharLevelTokenizer(read_vocab_size(config)),
    "SPMTokenizer": SPMTokenizer,
    "TiktokenTokenizer": lambda config, _: TiktokenTokenizer(config),
}
