"""The server around a model that counts: what takes too long, who may ask, and how it ends. It runs in this thread, which hears
signals, and its clients in others."""

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest
from support.counting import Counting

from neox.config.errors import ConfigError
from neox.config.sections import ServingConfig, TokenizerConfig
from neox.inference import listening
from neox.inference.answers import Writer
from neox.inference.decoding import Batch
from neox.inference.gate import Gate
from neox.inference.listening import Server, listening_socket, url_of
from neox.inference.server import Api
from neox.inference.serving import Decoder
from neox.tokenizer.tokenizer import build_tokenizer

PATIENCE = 20


class Serving:
    """A server with two places to write and two to wait, where "a" is followed by "b"."""

    def __init__(self, key=None, grace_seconds=5.0):
        self.model = Counting(256, fails_at=ord("~"))
        tokenizer = build_tokenizer(TokenizerConfig(tokenizer_type="CharLevelTokenizer"))
        decoder = Decoder(Batch(self.model, vocab_size=256, max_positions=300, eod=None), most_rows=2, most_waiting=2)
        writer = Writer(decoder, tokenizer.decode)
        api = Api(writer, tokenizer, None, name="counting", max_positions=300, most_texts=decoder.most)
        self.gate = Gate(api.app(), key=key, most_requests=6)
        self.server = Server(self.gate, writer, grace_seconds=grace_seconds)
        self.decoder = decoder
        self.listening = listening_socket(ServingConfig(serve_port=0))
        self.url = url_of(self.listening)
        self.address = self.listening.getsockname()

    def run(self, client):
        """Serve until the client, a function, has returned and the server has ended; what it returned."""
        self.decoder.start(self.server.fail)
        with ThreadPoolExecutor() as threads:
            done = threads.submit(self._client, client)
            self.server.serve_at(self.listening)
            self.decoder.close()
            return done.result(timeout=PATIENCE)

    def _client(self, client):
        try:
            self.until(lambda: self.server.started)
            return client()
        finally:
            if not self.gate.draining:
                os.kill(os.getpid(), signal.SIGTERM)

    def ask(self, prompt="a", **keys):
        body = {"prompt": prompt, **keys}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=PATIENCE)

    def connected(self, sent):
        connection = socket.create_connection(self.address, timeout=PATIENCE)
        connection.sendall(sent)
        return connection

    def until(self, holds):
        end = time.monotonic() + PATIENCE
        while not holds():
            assert time.monotonic() < end
            time.sleep(0.01)


def everything(connection):
    """What comes until the other side closes."""
    received = b""
    with suppress(ConnectionResetError):  # what was still being sent then is answered so
        while part := connection.recv(1 << 16):
            received += part
    return received


def text(response):
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]["text"]


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\nx",
        b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{",
    ],
    ids=["nothing", "headers", "body"],
)
def test_a_request_that_does_not_come_is_ended(monkeypatch, sent):
    """FAULTS 34: a byte now and then does not make the time longer."""
    monkeypatch.setattr(listening, "REQUEST_SECONDS", 0.5)
    serving = Serving()

    def client():
        began = time.monotonic()
        with serving.connected(sent) as connection:
            threading.Thread(target=drip, args=(connection, sent), daemon=True).start()
            answer = everything(connection)
        assert time.monotonic() - began < 5
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert text(serving.ask(max_tokens=3)) == "bcd"
        serving.until(lambda: serving.gate.requests == 0)

    def drip(connection, sent):
        try:
            while sent:
                connection.sendall(b"x")
                time.sleep(0.05)
        except OSError:
            pass

    serving.run(client)


def test_a_connection_may_be_used_again_and_its_second_request_has_its_own_time(monkeypatch):
    monkeypatch.setattr(listening, "REQUEST_SECONDS", 0.5)
    serving = Serving()

    def client():
        with httpx.Client(base_url=serving.url) as session:
            for _ in range(3):
                assert session.get("/health").status_code == 200
                time.sleep(0.3)

    serving.run(client)


def test_who_does_not_take_the_answer_loses_it(monkeypatch):
    """FAULTS 34: a reader that stalls holds no place."""
    monkeypatch.setattr(listening, "STALL_SECONDS", 0.5)
    serving = Serving()
    serving.listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)  # soon full

    def client():
        head = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"
        with serving.connected(b"") as connection:
            connection.setblocking(False)
            end = time.monotonic() + PATIENCE
            # as many requests as it takes for the answers, which nobody reads, to fill what lies between
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                while time.monotonic() < end:
                    try:
                        connection.send(head * 100)
                    except BlockingIOError:
                        time.sleep(0.05)
        serving.until(lambda: not serving.server.server_state.connections)

    serving.run(client)


def test_a_key_is_asked_for_where_there_is_one():
    serving = Serving(key="se\u00e9cret")

    def client():
        for shown in ({}, {"authorization": "Bearer secre"}, {"authorization": "se\u00e9cret".encode()}):
            refused = httpx.post(f"{serving.url}/v1/completions", json={"prompt": "a"}, headers=shown)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        shown = {"authorization": "Bearer se\u00e9cret".encode()}
        assert (
            text(httpx.post(f"{serving.url}/v1/completions", json={"prompt": "a", "max_tokens": 1}, headers=shown))
            == "b"
        )
        assert httpx.get(f"{serving.url}/health").status_code == 200

    serving.run(client)


def test_a_signal_lets_what_is_at_work_end_and_refuses_what_is_new():
    """FAULTS 34."""
    serving = Serving()

    def client():
        serving.model.goes_on.clear()
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(serving.ask, max_tokens=3)
            serving.until(lambda: serving.decoder.rows == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            serving.until(lambda: serving.gate.draining)
            for refused in (httpx.get(f"{serving.url}/health"), serving.ask()):
                assert refused.status_code == 503
                assert "retry-after" in refused.headers
            serving.model.goes_on.set()
            assert text(asked.result()) == "bcd"

    serving.run(client)
    assert not serving.server.failed


@pytest.mark.parametrize("stream", [False, True])
def test_what_does_not_end_in_time_is_told_so(stream):
    serving = Serving(grace_seconds=0.3)

    def client():
        serving.model.goes_on.clear()
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(serving.ask, max_tokens=3, stream=stream)
            serving.until(lambda: serving.decoder.rows == 1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.result().status_code == 503
        serving.model.goes_on.set()

    serving.run(client)


@pytest.mark.parametrize("stream", [False, True])
def test_where_the_model_fails_the_server_ends(stream):
    serving = Serving()

    def client():
        answer = serving.ask("z{|", max_tokens=5, stream=stream)
        if stream:
            events = answer.text.split("\n\n")
            assert '"text":"}"' in events[0]
            assert '"the model failed' in events[-2]
            assert "[DONE]" not in answer.text
        else:
            assert answer.status_code == 500
            assert "the model failed" in answer.json()["error"]["message"]

    serving.run(client)
    assert serving.server.failed


def test_more_connections_than_there_may_be_are_closed(monkeypatch):
    monkeypatch.setattr(listening, "MOST_CONNECTIONS", 3)
    serving = Serving()

    def client():
        first = [serving.connected(b"") for _ in range(3)]
        serving.until(lambda: len(serving.server.server_state.connections) == 3)
        with serving.connected(b"") as one_more, pytest.raises(ConnectionResetError):
            one_more.recv(1)
            raise ConnectionResetError
        for connection in first:
            connection.close()
        serving.until(lambda: not serving.server.server_state.connections)
        assert text(serving.ask(max_tokens=1)) == "b"

    serving.run(client)


def test_an_address_that_cannot_be_had_is_named_with_its_key():
    taken = listening_socket(ServingConfig(serve_port=0))
    port = taken.getsockname()[1]
    with pytest.raises(ConfigError, match=f"serve_port: cannot listen at port {port} of 127.0.0.1: .*in use"):
        listening_socket(ServingConfig(serve_port=port))
    with pytest.raises(ConfigError, match="serve_host: cannot listen at port 0 of 192.0.2.1"):
        listening_socket(ServingConfig(serve_host="192.0.2.1", serve_port=0))
    with pytest.raises(ConfigError, match="serve_host: no.such.host.invalid is no address"):
        listening_socket(ServingConfig(serve_host="no.such.host.invalid"))
    taken.close()
