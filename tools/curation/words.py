"""What datatrove's parts take words, sentences and hashes from. By itself it would load spaCy, which is far slower than the rules
that use the words, and call xxhash as it was before version 4."""

from __future__ import annotations

import re

from datatrove.utils.hashing import HashConfig
from datatrove.utils.word_tokenizers import WordTokenizer

HASHES = HashConfig(precision=64, hash_fc="sha1")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+")


class Words(WordTokenizer):
    """Words are what white space separates; a sentence ends with `.`, `!` or `?` before white space."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words, with the punctuation that touches them."""
        return text.split()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """Begin and end of each sentence."""
        ends = [match.end() for match in SENTENCE_END.finditer(text)]
        spans = zip([0, *ends], [*ends, len(text)])
        return [(begin, end) for begin, end in spans if text[begin:end].strip()]

    def sent_tokenize(self, text: str) -> list[str]:
        """The sentences."""
        return [text[begin:end].strip() for begin, end in self.span_tokenize(text)]


WORDS = Words()  # one object: datatrove keeps the words of the last texts by it
