"""Words and sentences for datatrove, which would load spaCy for them: forty times slower here, and no closer to the papers."""

from __future__ import annotations

import re

from datatrove.utils.word_tokenizers import WordTokenizer

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
