"""The encodings of tiktoken, as far as its own package hides them behind a download: sizes, patterns, special tokens.

A .tiktoken file holds only the ranks; which pattern splits the text before them must come from elsewhere: from here.
"""

from __future__ import annotations

from dataclasses import dataclass

END_OF_DOCUMENT = "<|endoftext|>"

_FILL_IN = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>")

_R50K_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
_CL100K_PATTERN = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"""
    r"""\s+(?!\S)|\s"""
)
_CONTRACTION = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)?"""
_O200K_PATTERN = "|".join(
    [
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+""" + _CONTRACTION,
        r"""[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*""" + _CONTRACTION,
        r"""\p{N}{1,3}""",
        r""" ?[^\s\p{L}\p{N}]+[\r\n/]*""",
        r"""\s*[\r\n]+""",
        r"""\s+(?!\S)""",
        r"""\s+""",
    ]
)


@dataclass(frozen=True)
class TiktokenEncoding:
    """`pattern` splits the text into pieces that merge apart; `vocab_size` counts special tokens and unused ids too."""

    vocab_size: int
    pattern: str
    special_tokens: dict[str, int]


_R50K = TiktokenEncoding(50_257, _R50K_PATTERN, {END_OF_DOCUMENT: 50_256})

TIKTOKEN_ENCODINGS = {
    "gpt2": _R50K,
    "r50k_base": _R50K,
    "p50k_base": TiktokenEncoding(50_281, _R50K_PATTERN, {END_OF_DOCUMENT: 50_256}),
    "cl100k_base": TiktokenEncoding(
        100_277,
        _CL100K_PATTERN,
        {
            END_OF_DOCUMENT: 100_257,
            **{token: 100_258 + index for index, token in enumerate(_FILL_IN)},
            "<|endofprompt|>": 100_276,
        },
    ),
    "o200k_base": TiktokenEncoding(200_019, _O200K_PATTERN, {END_OF_DOCUMENT: 199_999, "<|endofprompt|>": 200_018}),
}
