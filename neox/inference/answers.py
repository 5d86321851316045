"""Has the decoder write, and hands on what comes as text: the model's thread on one side, asyncio on the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass

from neox.inference.decoding import Row
from neox.inference.pieces import Pieces
from neox.inference.serving import Decoder, Finish


@dataclass(frozen=True)
class Piece:
    """What has come for one of the rows."""

    place: int  # of the row
    text: str  # may be empty
    tokens: int  # that it took: 1, or 0 for the end of the document
    finish: Finish | None  # None where more follows


class Writer:
    """Writes for whoever asks, all in one event loop."""

    def __init__(self, decoder: Decoder, decode: Callable[[Sequence[int]], str]) -> None:
        """decode: ids to text."""
        self._decoder = decoder
        self._decode = decode
        self._inboxes: set[asyncio.Queue] = set()

    @property
    def rows(self) -> int:
        """How many are being written, or wait to be."""
        return self._decoder.rows

    async def write(self, rows: Sequence[Row], stops: Sequence[str]) -> AsyncGenerator[Piece, None]:
        """The pieces of each row as they come, up to one with a finish. Raises Full at once.

        Rows are dropped where a stop has come, and all of them where nobody goes on reading.
        """
        loop, inbox = asyncio.get_running_loop(), asyncio.Queue()

        def tell(row: Row, token: int | None, finish: Finish | None) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, (row, token, finish))

        places = {row: place for place, row in enumerate(rows)}
        texts = {row: Pieces(self._decode, row.prompt, stops) for row in rows}
        self._decoder.submit(rows, tell)
        self._inboxes.add(inbox)
        try:
            while texts:
                news = await inbox.get()
                if isinstance(news, Exception):
                    raise news
                row, token, finish = news
                if row not in texts:
                    continue  # it has ended, and the decoder was not told in time
                text = "" if token is None else texts[row].add(token)
                if finish and not texts[row].stopped:
                    text += texts[row].end()
                if texts[row].stopped:
                    finish = "stop"
                if finish:
                    del texts[row]
                    self._decoder.cancel([row])
                yield Piece(places[row], text, int(token is not None), finish)
        finally:
            self._inboxes.remove(inbox)
            self._decoder.cancel(list(texts))

    def abort(self, error: Exception) -> None:
        """Let everything that is being written end with this error."""
        for inbox in self._inboxes:
            inbox.put_nowait(error)
