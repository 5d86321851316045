"""Tokens to text, piece by piece as they come: whole characters, and nothing from the words on that end the answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONTEXT = 8  # ids before a token that its text may depend on: whether a space stands before a word
# what is decoded from a character whose last bytes are still to come, and from bytes that are no text
UNFINISHED = "\ufffd"
LONGEST_CHARACTER = 4  # in bytes, and so in tokens
LONGEST_WINDOW = 64


class Pieces:
    """The text of one answer. The pieces together are the text of its tokens, up to the first of the `stops`.

    decode: ids to text, as a tokenizer does it. prompt: ids that the answer follows. stops: texts that end it, themselves left out.
    stopped: whether one of them has come.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], prompt: Sequence[int], stops: Sequence[str] = ()
    ) -> None:
        # the longest that begins and ends between two characters
        ends = (list(prompt[-size:]) for size in range(min(CONTEXT, len(prompt)), 0, -1))
        context = next((ids for ids in ends if UNFINISHED not in decode(ids)), [])
        self.stopped = False
        self._decode = decode
        self._stops = stops
        self._window = context  # ids that are decoded together: those since the text was last whole, and some before
        self._whole = len(context)  # how many of them are those before
        self._told = len(decode(context))  # characters of the window's text
        self._held = ""  # may be the beginning of a stop

    def add(self, token: int) -> str:
        """The text that is certain with this token and was not before."""
        self._window.append(token)
        text = self._decode(self._window)
        unsure = self._unsure(text)
        piece = text[self._told : len(text) - unsure]
        self._told += len(piece)
        if piece and not unsure:
            self._forget(self._whole, unsure)
        elif len(self._window) > LONGEST_WINDOW:
            self._forget(len(self._window) - CONTEXT, unsure)
        return self._up_to_a_stop(piece)

    def end(self) -> str:
        """The rest, where no token follows."""
        return self._up_to_a_stop(self._decode(self._window)[self._told :]) + ("" if self.stopped else self._held)

    def _unsure(self, text: str) -> int:
        """How many characters at the end of the window's text the next token may still change.

        A tokenizer that falls back to bytes may word all of an unfinished character's tokens, and of those before, otherwise once it is
        finished; a character has no more than four. After that, they are bytes that are no text, and the last of them may begin one.
        """
        if not text.endswith(UNFINISHED):
            return 0
        return max(0, len(text) - self._told) if len(self._window) - self._whole < LONGEST_CHARACTER else 1

    def _forget(self, ids: int, unsure: int) -> None:
        """Let the window begin so many ids later."""
        self._window = self._window[ids:]
        self._whole = len(self._window)
        self._told = len(self._decode(self._window)) - unsure

    def _up_to_a_stop(self, piece: str) -> str:
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        begun = max((_begun(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - begun :]
        return text[: len(text) - begun]


def _begun(text: str, stop: str) -> int:
    """Length of the longest end of a text that a stop begins with; not the whole stop."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
