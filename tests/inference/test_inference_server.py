"""A real server, started through deepy.py, and OpenAI's own client."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import tokenizers
from support.families import saved
from support.runs import finish, start

from neox.inference.listening import allow_files
from neox.interop.huggingface import import_folder

POSITIONS = 1024
ROWS, WAITING = 4, 8
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def add_tokenizer(folder: Path) -> None:
    """Bytes and a few words, with a chat template."""
    engine = tokenizers.Tokenizer(tokenizers.models.BPE())
    engine.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["</s>", "<|im_start|>", "<|im_end|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(["the tide goes out"] * 10, trainer)
    engine.save(str(folder / "tokenizer.json"))
    facts = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(facts))


def wait_for(holds, what, seconds=60.0):
    """Until something holds, which is named where it never does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"no {what} after {seconds:g} s"
        time.sleep(0.02)


class Served:
    """A server of its own process, and what it has printed."""

    def __init__(self, *arguments, **environment):
        self.process = start("serve.py", *arguments, **environment)
        self.lines = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_for(lambda: self.process.poll() is not None or self._address() is not None, "the server's address")
        assert self._address() is not None, self.output
        self.host, self.port = self._address()
        self.url = f"http://{self.host}:{self.port}"

    def _read(self):
        self.lines.extend(self.process.stdout)

    def _address(self):
        found = re.search(r"serving (\S+) at http://([\d.]+):(\d+)", self.output)
        return found and (found[2], int(found[3]))

    @property
    def output(self):
        return "".join(self.lines)

    def health(self):
        return httpx.get(f"{self.url}/health", timeout=20).json()

    def post(self, path="/v1/completions", **body):
        return httpx.post(f"{self.url}{path}", json=body, timeout=60)

    def resident_bytes(self):
        """Memory of the process that serves, the launcher's only child."""
        [child] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        status = Path(f"/proc/{child}/status").read_text()
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", status)[1])


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The configuration of a small imported Llama that writes nonsense, and with it much that is not UTF-8."""
    folder = tmp_path_factory.mktemp("served")
    keys = {"vocab_size": 280, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    keys |= {"num_key_value_heads": 2, "intermediate_size": 56, "max_position_embeddings": POSITIONS}
    saved(folder / "theirs", "llama", **keys)
    add_tokenizer(folder / "theirs")
    import_folder(folder / "theirs", folder / "tiny")
    return folder / "tiny" / "config.yml"


@pytest.fixture(scope="module")
def served(config):
    keys = [f"generation_batch_size={ROWS}", f"serve_max_waiting={WAITING}", "serve_port=0", "temperature=0.3"]
    server = Served(config, "--set", *keys)
    yield server
    if server.process.poll() is None:
        os.killpg(server.process.pid, signal.SIGKILL)
        server.process.wait()


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def test_it_says_what_it_serves_and_what_it_sets_aside(served, client):
    assert "weights of " in served.output
    assert "serve.py is told by each request: temperature set aside" in served.output
    [model] = client.models.list().data
    assert (model.id, model.object) == ("tiny", "model")
    assert client.models.retrieve("tiny") == model
    assert served.health() == {"status": "ok", "texts": 0}


def test_a_completion(client):
    made = client.completions.create(model="tiny", prompt="the tide", max_tokens=12, temperature=0)
    assert (made.object, made.model) == ("text_completion", "tiny")
    [choice] = made.choices
    assert choice.finish_reason == "length"
    assert made.usage.completion_tokens == 12
    assert made.usage.total_tokens == made.usage.prompt_tokens + 12
    assert client.completions.create(model="tiny", prompt="the tide", max_tokens=12, temperature=0).choices == [choice]
    echoed = client.completions.create(model="tiny", prompt="the tide", max_tokens=12, temperature=0, echo=True)
    assert echoed.choices[0].text == "the tide" + choice.text
    assert client.completions.create(model="tiny", prompt="the tide").usage.completion_tokens <= 16, (
        "as in OpenAI's API"
    )


def test_one_request_may_ask_for_many_texts(client):
    """Each prompt's are the same as when it is asked for alone; each text draws from its own numbers."""
    both = client.completions.create(model="tiny", prompt=["a b", "the"], n=2, max_tokens=9, seed=5)
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    alone = client.completions.create(model="tiny", prompt="a b", n=2, max_tokens=9, seed=5)
    assert [choice.text for choice in alone.choices] == [choice.text for choice in both.choices[:2]]
    assert len({choice.text for choice in both.choices}) == 4
    assert both.usage.prompt_tokens > alone.usage.prompt_tokens


def test_a_stream_is_the_same_text_in_pieces(client):
    asked = {"model": "tiny", "prompt": "the tide goes", "max_tokens": 60, "seed": 3, "n": 2}
    whole = client.completions.create(**asked)
    parts = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    texts, finishes = ["", ""], {}
    for choice in (choice for part in parts for choice in part.choices):
        texts[choice.index] += choice.text
        if choice.finish_reason:
            finishes[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices}
    assert parts[-1].usage == whole.usage
    assert len({part.id for part in parts}) == 1


def test_a_stop_ends_a_text_before_it(client):
    asked = {"model": "tiny", "prompt": "the tide", "max_tokens": 40, "temperature": 0}
    text = client.completions.create(**asked).choices[0].text
    stop = text[len(text) // 2 :][:3]
    stopped = client.completions.create(**asked, stop=[stop, "never said"])
    assert stopped.choices[0].text == text[: text.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    assert stopped.usage.completion_tokens < 40
    parts = client.completions.create(**asked, stop=stop, stream=True)
    assert "".join(part.choices[0].text for part in parts) == stopped.choices[0].text


def test_a_chat(client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "the tide?"}]
    asked = {"model": "tiny", "messages": messages, "max_completion_tokens": 30, "seed": 1}
    made = client.chat.completions.create(**asked)
    assert made.object == "chat.completion"
    message = made.choices[0].message
    assert message.role == "assistant"
    rendered = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nthe tide?<|im_end|>\n<|im_start|>assistant\n"
    same = client.completions.create(model="tiny", prompt=rendered, max_tokens=30, seed=1, stop="<|im_end|>")
    assert message.content == same.choices[0].text
    assert made.usage == same.usage
    parts = list(client.chat.completions.create(**asked, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == message.content
    assert parts[-1].choices[0].finish_reason == made.choices[0].finish_reason


def test_a_prompt_of_ids_and_an_empty_one(client, served):
    asked = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    by_ids = client.completions.create(prompt=[5, 6, 7], **asked)
    assert by_ids.usage.prompt_tokens == 3
    assert client.completions.create(prompt=[[5, 6, 7]], **asked).choices == by_ids.choices
    empty = client.completions.create(prompt="", **asked)
    assert empty.usage.prompt_tokens == 1
    assert empty.choices == client.completions.create(prompt=[0], **asked).choices
    outside = served.post(prompt=[5, 272], max_tokens=1)
    assert (outside.status_code, outside.json()["error"]["message"]) == (400, "prompt: ids are 0 to 271")


def test_bad_requests_are_told_what_is_wrong(served, client):
    """FAULTS 34: bad JSON, wrong types, max_tokens and prompts beyond the model, `..` in the model's name."""
    with pytest.raises(openai.BadRequestError, match="max_tokens: should be greater than or equal to 1"):
        client.completions.create(model="tiny", prompt="a", max_tokens=-5)
    with pytest.raises(openai.BadRequestError, match=r"max_tokens: 1,024 after 1 .* 1,024 positions, so at most 1,023"):
        client.completions.create(model="tiny", prompt="a", max_tokens=POSITIONS)
    with pytest.raises(openai.BadRequestError, match=r"prompt: 2,000 tokens; the model has 1,024 positions"):
        client.completions.create(model="tiny", prompt=[5] * 2000)
    with pytest.raises(openai.BadRequestError, match=r"messages: 1,\d\d\d tokens; the model has 1,024 positions"):
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 1500}])
    with pytest.raises(openai.BadRequestError, match=r"prompt: 500,000 letters; the model has 1,024 positions"):
        client.completions.create(model="tiny", prompt="x" * 500_000)
    with pytest.raises(openai.BadRequestError, match="n: 100 texts for each of 1 prompts; at most 12 in all"):
        client.completions.create(model="tiny", prompt="a", n=100)
    with pytest.raises(openai.NotFoundError, match="there is no model '../../etc/passwd'; this is tiny"):
        client.completions.create(model="../../etc/passwd", prompt="a")
    garbage = httpx.post(f"{served.url}/v1/completions", content=b"{garbage", timeout=20)
    assert garbage.status_code == 400
    assert "the body is not JSON" in garbage.json()["error"]["message"]
    for path, status in (
        ("/v1/models/..", 404),
        ("/v1/models/%2e%2e/x", 404),
        ("/v1/nothing", 404),
        ("/v1/completions", 405),
    ):
        with socket.create_connection((served.host, served.port), timeout=20) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".encode())
            answer = connection.makefile("rb").read()
        assert int(answer.split()[1]) == status
        assert b'"error"' in answer
    assert served.health()["status"] == "ok"


def test_a_hundred_megabytes_are_not_read(served):
    """FAULTS 34: neither where the length is told, nor where it is not."""
    before = served.resident_bytes()
    part = b" " * (1 << 20)

    def parts():
        for _ in range(100):
            yield part

    for headers in ({"content-length": str(100 << 20)}, {}):
        refused = httpx.post(f"{served.url}/v1/completions", content=parts(), headers=headers, timeout=60)
        assert refused.status_code == 413
        assert "1,048,576 bytes" in refused.json()["error"]["message"]
    assert served.resident_bytes() - before < 20 << 20


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_is_not_written_for(served, stream):
    """FAULTS 34: at work, and waiting for a place."""
    body = json.dumps({"prompt": "a", "max_tokens": 1000, "temperature": 0, "n": ROWS, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    connections = [socket.create_connection((served.host, served.port), timeout=20) for _ in range(3)]
    for connection in connections:
        connection.sendall(head + body)
    wait_for(lambda: served.health()["texts"] == 3 * ROWS, "twelve texts")
    if stream:
        assert connections[0].recv(4096).startswith(b"HTTP/1.1 200 ")
    began = time.monotonic()
    for connection in connections:
        connection.close()
    wait_for(lambda: served.health()["texts"] == 0, "nothing to write")
    assert time.monotonic() - began < 4, "to write them takes longer"


def test_a_thousand_at_once(served):
    """FAULTS 34: as many as find a place are served, the others told to come again, and memory stays."""
    allow_files(2048)
    before = served.resident_bytes()
    body = json.dumps({"prompt": "the tide", "max_tokens": 20}).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    )

    async def ask():
        reader, writer = await asyncio.open_connection(served.host, served.port)
        writer.write(head + body)
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them():
        return await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(1000))), 60)

    answers = asyncio.run(all_of_them())
    statuses = Counter(int(answer.split()[1]) for answer in answers)
    assert statuses[200] >= ROWS + WAITING
    assert set(statuses) <= {200, 429}
    assert all(b"retry-after: 1\r\n" in answer for answer in answers if answer.startswith(b"HTTP/1.1 429"))
    assert served.resident_bytes() - before < 60 << 20
    assert served.post(prompt="a", max_tokens=1).status_code == 200


def test_a_busy_port_is_refused_before_anything_is_read(served, config):
    output = finish(start("serve.py", config, "--set", f"serve_port={served.port}"), expect=2)
    assert f"error: serve_port: cannot listen at port {served.port} of 127.0.0.1" in output
    assert "weights of" not in output
    assert "Traceback" not in output


def test_the_log_has_a_line_for_each_request_and_none_of_its_words(served):
    marked = f"mark{random.randrange(10**9)}"
    served.post(prompt=marked, max_tokens=2)
    served.post(prompt=marked, max_tokens=-2)
    wait_for(lambda: "POST /v1/completions 400" in served.lines[-1], "the line of the second request")
    assert re.search(r"127\.0\.0\.1 POST /v1/completions 200, \d\.\d{3} s, \d+ \+ 2 tokens\n", served.lines[-2])
    assert marked not in served.output


def test_sigterm_to_the_launcher_lets_streams_end(served, client):
    """FAULTS 34, and nothing that came before has left a trace of an error."""
    asked = {"model": "tiny", "prompt": "the tide", "max_tokens": 600, "temperature": 0}
    with ThreadPoolExecutor() as threads:
        stream = client.completions.create(**asked, stream=True)
        first = next(stream)
        os.kill(served.process.pid, signal.SIGTERM)
        rest = threads.submit(list, stream)
        wait_for(lambda: httpx.get(f"{served.url}/health").status_code == 503, "the end of new requests")
        parts = [first, *rest.result(timeout=60)]
    assert parts[-1].choices[0].finish_reason in ("length", "stop")
    wait_for(lambda: served.process.poll() == 0, "the end of the launcher")
    assert "Traceback" not in served.output


def test_a_second_signal_ends_at_once(config):
    server = Served(config, "--set", "serve_port=0")
    with httpx.stream("POST", f"{server.url}/v1/completions", json={"prompt": "a", "max_tokens": 1000, "stream": True}):
        os.kill(server.process.pid, signal.SIGINT)
        wait_for(lambda: "SIGINT" in server.output, "the first signal")
        began = time.monotonic()
        os.kill(server.process.pid, signal.SIGINT)
        wait_for(lambda: server.process.poll() == 1, "the end of the launcher")
    assert time.monotonic() - began < 10
