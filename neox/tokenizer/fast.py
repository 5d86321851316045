"""Encode byte-level BPE through tiktoken, several times as fast as `tokenizers`, where that gives the same ids for certain.

A tokenizer.json is taken over in three steps, each of which may say no (None), and then `tokenizers` does the work:

    pattern   its pre-tokenizer is one whose pieces a pattern of ours cuts alike (PATTERNS)
    ranks     its merges are those that tiktoken derives from the order of the ids
    check     a fixed sample of hard text has the same ids in both
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy
import tiktoken
import tokenizers

from neox.tokenizer.sample import hard_sample

ByteTokens = dict[bytes, int]

# The same pieces, found faster: a regex engine with look-ahead walks through alternatives one by one, but hands those that need
# none, where they stand in one group, to a finite automaton. Alternatives that begin alike are one.
_GPT2_GROUP = r"'(?:[sdmt]|ll|ve|re)| ?(?:\p{L}+|\p{N}+|[^\s\p{L}\p{N}]+)"
_LLAMA3_GROUP = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
# what `ByteLevel` splits by where it is given no pattern
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = _LLAMA3_GROUP + r"|\s+(?!\S)|\s+"
PATTERNS = {
    GPT2_PATTERN: rf"(?:{_GPT2_GROUP})|\s+(?!\S)|\s",
    LLAMA3_PATTERN: rf"(?:{_LLAMA3_GROUP})|\s+(?!\S)|\s",
}


def gpt2_pattern_with_space_runs(longest: int) -> str:
    """GPT-2's pieces where runs of 2 to `longest` spaces are tokens of their own (NeoX-20B: 24).

    Such tokens are cut out before the text is split, so that no other white space may reach into a run.
    """
    return rf"(?: {{2,{longest}}}|{_GPT2_GROUP})|(?:(?!  )\s)+(?!\S)|\s"


class FastEncoder:
    """Text to ids by tiktoken. `encode` gives None for a text that it leaves to `tokenizers`."""

    def __init__(self, encoding: tiktoken.Encoding, normalizer: Any | None):
        self.encoding = encoding
        self.normalizer = normalizer

    def encode(self, text: str) -> numpy.ndarray | None:
        """The ids of a text, uint32 (length,)."""
        if self.normalizer is not None and not text.isascii():
            normal = self._composed(text)
            # special tokens are found before the text is composed: where both happen, they might touch
            if normal != text and any(token in text or token in normal for token in self.encoding.special_tokens_set):
                return None
            text = normal
        try:
            return self.encoding.encode_to_numpy(text, allowed_special="all")
        except ValueError:  # a million of white space in a row is too much for its regex engine
            return None

    def _composed(self, text: str) -> str:
        """NFC as `tokenizers` has it: Python's own Unicode tables may be older, so that letters it does not know go there."""
        others = text.encode().translate(None, _ASCII).decode()
        if any(unicodedata.category(character) == "Cn" for character in set(others)):
            return self.normalizer.normalize_str(text)
        return unicodedata.normalize("NFC", text)


_ASCII = bytes(range(128))


def fast_encoder(engine: tokenizers.Tokenizer) -> FastEncoder | None:
    """The fast way to the ids of `engine`; None where there is no proof that they would be the same."""
    description = json.loads(engine.to_str())
    added = description["added_tokens"]
    normalizer = description["normalizer"]
    if normalizer not in (None, {"type": "NFC"}):
        return None
    pattern = _pattern(description["pre_tokenizer"], added)
    ranks = _ranks(description["model"], {token["content"] for token in added})
    if pattern is None or ranks is None:
        return None
    runs = {token["content"].encode(): token["id"] for token in added if not token["content"].strip(" ")}
    special = {token["content"]: token["id"] for token in added if token["content"].strip(" ")}
    encoding = tiktoken.Encoding(
        "tokenizer.json", pat_str=pattern, mergeable_ranks=ranks | runs, special_tokens=special
    )
    fast = FastEncoder(encoding, engine.normalizer)
    return fast if _same_ids(fast, engine, hard_sample(list(special))) else None


def split_long(text: str, longest: int) -> list[str]:
    """A text in parts of about `longest` characters, cut between a letter of a-z and a space.

    None of PATTERNS has a piece with both, NFC joins nothing to a space, so that the ids of the parts are the ids of the text.
    """
    parts, begin = [], 0
    while len(text) - begin > longest:
        cut = text.find(" ", begin + longest)
        while cut > 0 and not (text[cut - 1].isascii() and text[cut - 1].isalpha()):
            cut = text.find(" ", cut + 1)
        if cut <= 0:
            break
        parts.append(text[begin:cut])
        begin = cut
    parts.append(text[begin:])
    return parts


def _pattern(pre_tokenizer: dict[str, Any] | None, added: list[dict[str, Any]]) -> str | None:
    """The pattern that cuts text as the pre-tokenizer and the tokens added to the vocabulary do."""
    original = _split_pattern(pre_tokenizer)
    plain = [token for token in added if token["content"].strip(" ")]
    runs = sorted(len(token["content"]) for token in added if not token["content"].strip(" "))
    if (
        original not in PATTERNS
        or any(token["single_word"] or token["lstrip"] or token["rstrip"] for token in added)
        or any(any(map(str.isspace, token["content"])) for token in plain)
        or len({token["normalized"] for token in plain}) > 1  # those of each kind are looked for apart
        or any(one.startswith(other) for one, other in _neighbours(token["content"] for token in plain))
    ):
        return None
    if not runs:
        return PATTERNS[original]
    if original != GPT2_PATTERN or runs != list(range(2, len(runs) + 2)):
        return None
    return gpt2_pattern_with_space_runs(runs[-1])


def _split_pattern(pre_tokenizer: dict[str, Any] | None) -> str | None:
    """The pattern that a pre-tokenizer of a known form splits text by."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest} if rest.get("use_regex", True):
            return GPT2_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    return None


def _neighbours(names) -> list[tuple[str, str]]:
    """Each name with the one before it in order: where one begins with any other, it begins with that of some pair."""
    ordered = sorted(names)
    return list(zip(ordered[1:], ordered))


def _ranks(model: dict[str, Any], added: set[str]) -> dict[bytes, int] | None:
    """Token -> id, where joining the pair of neighbours whose union has the lowest id is the same as following the merges.

    It is where the ids follow the merges, each token is the result of one merge, and each one spelt in bytes is merged to itself:
    by induction over the ids, no other pair ever stands where it could be joined to a token. A vocabulary that was made for
    tiktoken lists a merge for every pair that can be joined to a token, which is the same rule.
    """
    if model["type"] != "BPE" or model.get("byte_fallback"):
        return None
    if any(model.get(key) for key in ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix")):
        return None
    vocabulary = {token: index for token, index in model["vocab"].items() if token not in added}
    letters = {token for token in vocabulary if len(token) == 1}
    pairs = [tuple(merge) for merge in model["merges"]]
    results = ["".join(pair) for pair in pairs]
    ids = [vocabulary.get(result, -1) for result in results]
    if -1 in ids or any(later < earlier for earlier, later in zip(ids, ids[1:])) or not letters.isdisjoint(results):
        return None
    if not all(part in vocabulary for pair in pairs for part in pair) or not set("".join(vocabulary)) <= _BYTES.keys():
        return None
    if len(letters) + len(set(results)) != len(vocabulary):
        return None
    if len(set(results)) < len(results):
        follows = set(pairs) == _all_pairs(vocabulary, results)
    else:
        follows = _each_merges_to_itself(vocabulary, pairs)
    return {_bytes(token): index for token, index in vocabulary.items()} if follows else None


def _all_pairs(vocabulary: dict[str, int], results: list[str]) -> set[tuple[str, str]]:
    """Every way to cut a token in two tokens."""
    return {
        (token[:cut], token[cut:])
        for token in set(results)
        for cut in range(1, len(token))
        if token[:cut] in vocabulary and token[cut:] in vocabulary
    }


def _each_merges_to_itself(vocabulary: dict[str, int], pairs: list[tuple[str, str]]) -> bool:
    """Whether the merges join the bytes of every token to that token, each from parts that come before it."""
    letters = {token for token in vocabulary if len(token) == 1}
    for left, right in pairs:
        if any(part not in letters and vocabulary[part] >= vocabulary[left + right] for part in (left, right)):
            return False
    merging = tokenizers.models.BPE(vocab=vocabulary, merges=pairs)
    return all([found.id for found in merging.tokenize(token)] == [index] for token, index in vocabulary.items())


def _same_ids(fast: FastEncoder, engine: tokenizers.Tokenizer, texts: Sequence[str]) -> bool:
    """Whether both give the same ids, so that a new release of either that reads a letter in another way is found out."""
    encodings = engine.encode_batch_fast(texts, add_special_tokens=False)
    results = [fast.encode(text) for text in texts]
    return all(ids is None or ids.tolist() == encoding.ids for ids, encoding in zip(results, encodings))


def _byte_letters() -> dict[str, int]:
    """Letter -> byte: GPT-2's way to write any byte as a visible letter."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


_BYTES = _byte_letters()
_TO_LATIN = str.maketrans({letter: chr(byte) for letter, byte in _BYTES.items()})


def _bytes(token: str) -> bytes:
    return token.translate(_TO_LATIN).encode("latin-1")
