"""Encode chats as tokens and labels, two columns that become two pairs of token files. Knows nothing about files."""

from __future__ import annotations

from itertools import accumulate

import numpy

from neox.data.chat_template import ChatTemplate, Piece
from neox.data.corpus import RecordError, json_object, subset_of
from neox.data.encode import Encoded, Encoder, Share
from neox.data.records import Record
from neox.data.store import NO_LABEL
from neox.tokenizer.tokenizer import Tokenizer, joins_exactly


class ChatEncoder(Encoder):
    """What is done with a batch of chats: labels are the tokens of the assistant's answers, and NO_LABEL elsewhere."""

    def __init__(self, tokenizer: Tokenizer, key: str, template: ChatTemplate, append_eod: bool):
        super().__init__(tokenizer, (key,), append_eod, ftfy=False)
        self.template = template
        self.dtypes = [self.dtype, numpy.dtype(numpy.int32)]
        self.columns = [0, 0]  # there are as many labels as tokens
        self.joins = joins_exactly(tokenizer)

    def __call__(self, records: list[Record]) -> Encoded:
        texts, labels, complaints, empty = [], [], [], 0
        subsets: dict[str, Share] = {}
        for record in records:
            try:
                value = json_object(record, self.keys)
                pieces = self.template.pieces(value[self.keys[0]], value.get("tools"))
                ids = self._ids(pieces)
            except RecordError as error:
                complaints.append((record.place, str(error)))
                continue
            if not pieces:
                empty += 1
                continue
            # the end of the document follows an answer, so it is learned too
            texts.append(self.stored(numpy.concatenate([*ids, self.eod])))
            learned = [part if piece.learned else numpy.full_like(part, NO_LABEL) for piece, part in zip(pieces, ids)]
            labels.append(numpy.concatenate([*learned, self.eod]).astype(numpy.int32))
            size = sum(len(piece.text.encode()) for piece in pieces)
            subsets.setdefault(subset_of(value), Share()).add(Share(1, [size], [texts[-1].size]))
        lengths = numpy.array([text.size for text in texts], numpy.int32)
        return Encoded(
            tokens=[
                numpy.concatenate([numpy.array([], dtype), *column])
                for dtype, column in zip(self.dtypes, (texts, labels))
            ],
            lengths=[lengths, lengths],
            subsets=subsets,
            empty_documents=empty,
            complaints=complaints,
        )

    def _ids(self, pieces: list[Piece]) -> list[numpy.ndarray]:
        """The ids of each piece, int64. An answer begins with a token of its own, as it does when it is generated."""
        texts = [piece.text for piece in pieces]
        if self.joins:
            return [ids.astype(numpy.int64) for ids in self.tokenizer.encode_batch(texts)]
        # a tokenizer that adds spaces must see all that comes before a piece
        whole = [ids.astype(numpy.int64) for ids in self.tokenizer.encode_batch(list(accumulate(texts)))]
        for shorter, longer in zip(whole, whole[1:]):
            if not numpy.array_equal(longer[: shorter.size], shorter):
                raise RecordError(
                    "a token reaches from one turn into the next, so that the answer cannot be told apart"
                )
        ends = [0, *(ids.size for ids in whole)]
        return [whole[-1][begin:end] for begin, end in zip(ends, ends[1:])]
