"""The thread that owns the model: what is told of each row, in which order, and how it ends."""

import queue

import pytest
from support.counting import PATIENCE_SECONDS, Counting

from neox.inference.decoding import Batch, Row
from neox.inference.sampling import Sampling
from neox.inference.serving import Decoder, Full

VOCAB, EOD, BROKEN = 1000, 999, 500


@pytest.fixture
def model():
    """It waits until the test lets it go on."""
    model = Counting(VOCAB, fails_at=BROKEN)
    model.goes_on.clear()
    return model


@pytest.fixture
def decoder(model):
    decoder = Decoder(Batch(model, vocab_size=VOCAB, max_positions=2000, eod=EOD), most_rows=2, most_waiting=2)
    decoder.failures = queue.Queue()
    decoder.start(decoder.failures.put)
    yield decoder
    model.goes_on.set()
    decoder.close()


class Listener:
    """What was told, by row."""

    def __init__(self):
        self.told = queue.Queue()

    def __call__(self, *news):
        self.told.put(news)

    def until_the_end(self, count):
        """The tokens of each row and its finish, once so many rows have ended."""
        tokens, finishes = {}, {}
        while len(finishes) < count:
            row, token, finish = self.told.get(timeout=PATIENCE_SECONDS)
            assert row not in finishes, "nothing follows a finish"
            tokens.setdefault(row, []).extend([] if token is None else [token])
            if finish:
                finishes[row] = finish
        return tokens, finishes


def row(first, limit=3):
    return Row([first], limit, Sampling(), 0)


def test_rows_wait_for_a_place_and_all_are_told_to_their_end(model, decoder):
    listener = Listener()
    rows = [row(10), row(20, limit=5), row(EOD - 2, limit=9), row(30)]
    decoder.submit(rows, listener)
    assert decoder.rows == 4
    model.goes_on.set()
    tokens, finishes = listener.until_the_end(4)
    assert [tokens[each] for each in rows] == [[11, 12, 13], [21, 22, 23, 24, 25], [998], [31, 32, 33]]
    assert [finishes[each] for each in rows] == ["length", "length", "stop", "length"]
    assert decoder.rows == 0
    assert max(model.sizes) == 2, "no more at once than there may be"


def test_who_finds_no_place_is_told_at_once_and_the_others_are_served(model, decoder):
    listener = Listener()
    decoder.submit([row(10), row(20), row(30)], listener)
    with pytest.raises(Full, match="3 texts .* of at most 4"):
        decoder.submit([row(40), row(50)], listener)
    decoder.submit([row(60)], listener)
    model.goes_on.set()
    listener.until_the_end(4)
    decoder.submit([row(40), row(50)], listener)
    listener.until_the_end(2)


def test_rows_that_nobody_wants_are_not_continued(model, decoder):
    """FAULTS 34, of rows that run and of rows that wait."""
    listener = Listener()

    def hold_up(*news):
        listener(*news)
        model.goes_on.clear()

    running, other, waiting = row(1, limit=400), row(10, limit=400), row(20)
    decoder.submit([running, other, waiting], hold_up)
    model.goes_on.set()
    listener.told.get(timeout=PATIENCE_SECONDS)
    decoder.cancel([running, waiting])
    decoder.cancel([running])
    assert decoder.rows == 1
    last = row(30)
    decoder.submit([last], listener)
    decoder.cancel([other])
    model.goes_on.set()
    while listener.told.get(timeout=PATIENCE_SECONDS)[::2] != (last, "length"):
        pass
    assert len(running.ids) <= 3, "the step that it was in, and the one before"
    assert waiting.ids == []


def test_a_failure_of_the_model_is_told(model, decoder):
    model.goes_on.set()
    decoder.submit([row(BROKEN)], Listener())
    assert str(decoder.failures.get(timeout=PATIENCE_SECONDS)) == "out of memory"
