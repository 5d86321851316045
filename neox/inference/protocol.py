"""Requests and answers as OpenAI's API has them. Knows nothing about models, tokens or HTTP.

A field that would change the answer and is not supported is refused by its name; what clients send by habit (`frequency_penalty: 0`)
is taken where it changes nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

MOST_STOPS = 4  # as in OpenAI's API
SEEDS = 2**63
# what may stand in fields that take several kinds of things
FORMS = {
    "prompt": "a text, a list of texts, a list of ids, or a list of lists of ids",
    "stop": f"a text, or up to {MOST_STOPS} texts, none of them empty",
    "content": "a text, or a list of parts of type text",
}


class ApiError(Exception):
    """A request that is refused, or failed: the HTTP status, what to say, the field it is about, and OpenAI's short code of it."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code

    @property
    def body(self) -> dict[str, Any]:
        """As clients read it."""
        kind = (
            "rate_limit_error"
            if self.status == 429
            else "server_error"
            if self.status >= 500
            else "invalid_request_error"
        )
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class _Part(BaseModel):
    """Types are taken as they are: "5" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class StreamOptions(_Part):
    include_usage: bool = False


class TextRequest(_Part):
    """What both kinds of requests have."""

    # fields of OpenAI's that are taken at these values alone, and then left out
    neutral: ClassVar[dict[str, Any]] = {"frequency_penalty": 0, "presence_penalty": 0, "logit_bias": {}}

    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1)
    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=-SEEDS, lt=SEEDS)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    user: str | None = None  # who asks; it changes nothing

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, values: Any) -> Any:
        """null is the same as leaving a field out."""
        if not isinstance(values, dict):
            return values
        return {
            name: value
            for name, value in values.items()
            if value is not None and not (name in cls.neutral and value == cls.neutral[name])
        }

    @model_validator(mode="after")
    def _stops_are_few(self) -> TextRequest:
        if len(self.stops) > MOST_STOPS or "" in self.stops:
            raise ApiError(400, f"stop: must be {FORMS['stop']}", param="stop")
        return self

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [] if self.stop is None else [self.stop] if isinstance(self.stop, str) else self.stop


class CompletionRequest(TextRequest):
    """POST /v1/completions."""

    neutral: ClassVar[dict[str, Any]] = {**TextRequest.neutral, "best_of": 1, "suffix": ""}

    prompt: str | list[str] | list[int] | list[list[int]] = ""
    echo: bool = False

    @model_validator(mode="after")
    def _there_is_a_prompt(self) -> CompletionRequest:
        if self.prompt == []:
            raise ApiError(400, f"prompt: must be {FORMS['prompt']}", param="prompt")
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One or more, each a text or ids."""
        single = isinstance(self.prompt, str) or isinstance(self.prompt[0], int)
        return [self.prompt] if single else self.prompt


class TextPart(_Part):
    type: Literal["text"]
    text: str


class Message(_Part):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None

    def plain(self) -> dict[str, str]:
        """As templates take it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text} | ({} if self.name is None else {"name": self.name})


class ChatRequest(TextRequest):
    """POST /v1/chat/completions."""

    neutral: ClassVar[dict[str, Any]] = {
        **TextRequest.neutral,
        "logprobs": False,
        "tools": [],
        "response_format": {"type": "text"},
    }

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)  # the newer name of max_tokens

    @model_validator(mode="after")
    def _one_limit(self) -> ChatRequest:
        if None not in (self.max_tokens, self.max_completion_tokens):
            raise ApiError(400, "max_tokens: max_completion_tokens is given too: give one of them", param="max_tokens")
        return self


Asked = TypeVar("Asked", bound=TextRequest)


def parsed(body: bytes, kind: type[Asked]) -> Asked:
    """The request in a body; ApiError 400 names the first field that is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _complaint(error.errors(include_url=False, include_input=False)[0]) from None


def _complaint(error: ErrorDetails) -> ApiError:
    """What is wrong, beginning with the name of the field."""
    if error["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {error['ctx']['error']}")
    place = list(error["loc"])
    several = next((number for number, part in enumerate(place) if part in FORMS), None)
    if several is not None:  # what follows is the kind that it comes nearest to
        sentence, place = f"must be {FORMS[place[several]]}", place[: several + 1]
    elif error["type"] == "extra_forbidden":
        sentence = "is not supported"
    else:
        sentence = error["msg"].removeprefix("Input ")
    if not place:
        return ApiError(400, f"the body {sentence}")
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")
    return ApiError(400, f"{param}: {sentence}", param=param)


@dataclass
class Usage:
    """Tokens of a request, and of what has been made for it so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def body(self) -> dict[str, int]:
        """As clients read it."""
        return {**vars(self), "total_tokens": self.prompt_tokens + self.completion_tokens}


class CompletionForm:
    """How the choices of a CompletionRequest's answer look."""

    prefix, whole, part = "cmpl-", "text_completion", "text_completion"
    opening: dict[str, Any] | None = None  # what a stream begins with

    @staticmethod
    def choice(text: str) -> dict[str, Any]:
        """The whole text."""
        return {"text": text}

    delta = choice  # a part of it


class ChatForm:
    """How the choices of a ChatRequest's answer look."""

    prefix, whole, part = "chatcmpl-", "chat.completion", "chat.completion.chunk"
    opening: dict[str, Any] | None = {"delta": {"role": "assistant", "content": ""}}

    @staticmethod
    def choice(text: str) -> dict[str, Any]:
        """The whole text."""
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    @staticmethod
    def delta(text: str) -> dict[str, Any]:
        """A part of it."""
        return {"delta": {"content": text} if text else {}}


class Envelope:
    """The objects that one request is answered with: a whole one, or the parts of a stream."""

    def __init__(self, form: type[CompletionForm | ChatForm], model: str) -> None:
        self._form = form
        self._head = {"id": f"{form.prefix}{uuid.uuid4().hex}", "created": int(time.time()), "model": model}

    def whole(self, choices: Sequence[tuple[str, str]], usage: Usage) -> dict[str, Any]:
        """choices: text and reason of its end, of each."""
        found = [_choice(place, self._form.choice(text), finish) for place, (text, finish) in enumerate(choices)]
        return {**self._head, "object": self._form.whole, "choices": found, "usage": usage.body()}

    def openings(self, count: int) -> list[dict[str, Any]]:
        """What a stream of so many choices begins with."""
        opening = self._form.opening
        return [] if opening is None else [self._part([_choice(place, opening, None)]) for place in range(count)]

    def part(self, place: int, text: str, finish: str | None) -> dict[str, Any]:
        """More of one choice."""
        return self._part([_choice(place, self._form.delta(text), finish)])

    def usage(self, usage: Usage) -> dict[str, Any]:
        """The last part of a stream that is to tell it."""
        return {**self._part([]), "usage": usage.body()}

    def _part(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": self._form.part, "choices": choices}


def _choice(place: int, content: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": place, **content, "logprobs": None, "finish_reason": finish}
