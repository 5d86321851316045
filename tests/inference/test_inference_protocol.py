"""What a request may say, and how it is told what it may not."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from neox.inference.protocol import ApiError, ChatRequest, CompletionRequest, parsed

HELLO = [{"role": "user", "content": "hello"}]
PROMPT = "a text, a list of texts, a list of ids, or a list of lists of ids"
# field, what is said of it, and the rest of the message
WRONG = [
    ({"prompt": 5}, "prompt", f"must be {PROMPT}"),
    ({"prompt": [1, "a"]}, "prompt", f"must be {PROMPT}"),
    ({"prompt": [True]}, "prompt", f"must be {PROMPT}"),
    ({"prompt": {"a": 1}}, "prompt", f"must be {PROMPT}"),
    ({"prompt": []}, "prompt", f"must be {PROMPT}"),
    ({"max_tokens": -1}, "max_tokens", "should be greater than or equal to 1"),
    ({"max_tokens": "5"}, "max_tokens", "should be a valid integer"),
    ({"max_tokens": 1.5}, "max_tokens", "should be a valid integer"),
    ({"temperature": -0.1}, "temperature", "should be greater than or equal to 0"),
    ({"temperature": float("nan")}, "temperature", ""),
    ({"top_p": 0}, "top_p", "should be greater than 0"),
    ({"top_p": 1.1}, "top_p", "should be less than or equal to 1"),
    ({"top_k": -2}, "top_k", "should be greater than or equal to -1"),
    ({"n": 0}, "n", "should be greater than or equal to 1"),
    ({"seed": 2**63}, "seed", "should be less than"),
    ({"stop": ["a"] * 5}, "stop", "must be a text, or up to 4 texts, none of them empty"),
    ({"stop": ""}, "stop", "must be a text, or up to 4 texts, none of them empty"),
    ({"stop": [1]}, "stop", "must be a text, or up to 4 texts, none of them empty"),
    ({"stream": "yes"}, "stream", "should be a valid boolean"),
    ({"stream_options": {"other": 1}}, "stream_options.other", "is not supported"),
    ({"logprobs": 3}, "logprobs", "is not supported"),
    ({"best_of": 2}, "best_of", "is not supported"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "is not supported"),
    ({"tempreature": 0.5}, "tempreature", "is not supported"),
]
WRONG_CHATS = [
    ({}, "messages", "Field required"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": "hello"}, "messages", "valid array"),
    (
        {"messages": [{"role": "robot", "content": "a"}]},
        "messages[0].role",
        "'system', 'developer', 'user' or 'assistant'",
    ),
    ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content", ""),
    (
        {"messages": [{"role": "user", "content": 5}]},
        "messages[0].content",
        "must be a text, or a list of parts of type text",
    ),
    ({"messages": HELLO, "max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "is given too"),
    ({"messages": HELLO, "tools": [{"type": "function"}]}, "tools", "is not supported"),
    ({"messages": HELLO, "response_format": {"type": "json_object"}}, "response_format", "is not supported"),
]


def refused(kind, body):
    with pytest.raises(ApiError) as caught:
        parsed(body, kind)
    assert caught.value.status == 400
    assert caught.value.body["error"]["type"] == "invalid_request_error"
    return caught.value


@pytest.mark.parametrize(
    ("kind", "body", "param", "words"),
    [(CompletionRequest, *row) for row in WRONG] + [(ChatRequest, *row) for row in WRONG_CHATS],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_told_by_its_name(kind, body, param, words):
    error = refused(kind, json.dumps(body).encode())
    assert error.param == param
    assert error.message.startswith(f"{param}: ")
    assert words in error.message


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'{"prompt": "\\ud800"}', "the body is not JSON"),
        (b'{"prompt": "\xff"}', "the body is not JSON"),
        (b"[]", "the body should be"),
        (b"null", "the body should be"),
        (b'"text"', "the body should be"),
    ],
)
def test_a_body_that_is_no_object(body, words):
    assert words in refused(CompletionRequest, body).message


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
fields = st.sampled_from([*CompletionRequest.model_fields, *ChatRequest.model_fields, "logit_bias", "tools", "x"])


@settings(max_examples=50)
@given(st.dictionaries(fields, values, max_size=4), st.sampled_from([CompletionRequest, ChatRequest]))
def test_any_object_is_a_request_or_is_refused_in_words(body, kind):
    try:
        parsed(json.dumps(body).encode(), kind)
    except ApiError as error:
        assert error.status == 400
        assert error.param is None or error.message.startswith(f"{error.param}: ")


@given(st.binary(max_size=50))
def test_any_bytes_are_a_request_or_are_refused_in_words(body):
    try:
        parsed(body, CompletionRequest)
    except ApiError as error:
        assert error.status == 400


def test_what_clients_send_by_habit_changes_nothing():
    plain = parsed(b'{"prompt": "a"}', CompletionRequest)
    habits = {"frequency_penalty": 0.0, "presence_penalty": 0, "best_of": 1, "logit_bias": {}, "logprobs": None}
    assert parsed(json.dumps({"prompt": "a", "temperature": None, **habits}).encode(), CompletionRequest) == plain
    chat = {"messages": HELLO, "tools": [], "logprobs": False, "response_format": {"type": "text"}}
    assert parsed(json.dumps(chat).encode(), ChatRequest) == parsed(
        json.dumps({"messages": HELLO}).encode(), ChatRequest
    )


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ("", [""])],
)
def test_prompts(prompt, prompts):
    assert parsed(json.dumps({"prompt": prompt}).encode(), CompletionRequest).prompts == prompts


def test_contents_in_parts_are_one_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    chat = parsed(json.dumps({"messages": [{"role": "user", "content": parts, "name": "x"}]}).encode(), ChatRequest)
    assert chat.messages[0].plain() == {"role": "user", "content": "ab", "name": "x"}
