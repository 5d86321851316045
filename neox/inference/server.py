"""What the server does with a request: its routes, from the body to the answer. Connections, sizes and times are watched by gate.py
and listening.py.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from neox.data.chat_template import ChatTemplate
from neox.data.corpus import RecordError
from neox.inference.answers import Piece, Writer
from neox.inference.decoding import Row
from neox.inference.protocol import (
    ApiError,
    ChatForm,
    ChatRequest,
    CompletionForm,
    CompletionRequest,
    Envelope,
    TextRequest,
    Usage,
    parsed,
)
from neox.inference.responses import HUNG_UP, EventStream, as_json, event, failure, unless_gone
from neox.inference.sampling import Sampling
from neox.inference.serving import Full
from neox.tokenizer.tokenizer import Tokenizer

DEFAULT_TOKENS = (
    16  # of a completion, as in OpenAI's API; a chat's answer may be as long as the model's positions allow
)
TOO_LONG = "context_length_exceeded"
LONGEST_TOKEN = 64  # letters of one; a text of so many for each position is not even split into tokens
LONGEST_NAME = 100  # that is said back

Written: TypeAlias = AsyncGenerator[Piece, None]


class Api:
    """OpenAI's API for one model.

    name: the model's. template: None where it knows no chats. most_texts: of one request.
    """

    def __init__(
        self,
        writer: Writer,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        *,
        name: str,
        max_positions: int,
        most_texts: int,
    ) -> None:
        self._writer = writer
        self._tokenizer = tokenizer
        self._template = template
        self._name = name
        self._max_positions = max_positions
        self._most_texts = most_texts
        self._model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "neox"}

    def app(self) -> Starlette:
        """The routes, as an ASGI application."""
        return Starlette(
            routes=[
                Route("/health", self.health),
                Route("/v1/models", self.models),
                Route("/v1/models/{name:path}", self.model),
                Route("/v1/completions", self.completions, methods=["POST"]),
                Route("/v1/chat/completions", self.chat, methods=["POST"]),
            ],
            exception_handlers={
                ApiError: lambda _request, error: failure(error),
                Full: lambda _request, error: failure(ApiError(429, str(error), code="rate_limit_exceeded")),
                HTTPException: lambda _request, error: failure(ApiError(error.status_code, error.detail)),
                ClientDisconnect: lambda _request, _error: Response(status_code=HUNG_UP),
                Exception: lambda _request, _error: failure(ApiError(500, "the server failed; its log says how")),
            },
        )

    async def health(self, _request: Request) -> Response:
        """That it lives, and how much there is to write."""
        return as_json({"status": "ok", "texts": self._writer.rows})

    async def models(self, _request: Request) -> Response:
        """The one model, in a list."""
        return as_json({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        """The model by its name."""
        self._check_model(request.path_params["name"])
        return as_json(self._model)

    async def completions(self, request: Request) -> Response | EventStream:
        """Texts that go on where prompts end."""
        asked = parsed(await request.body(), CompletionRequest)
        self._check_model(asked.model)
        self._check_count(asked, len(asked.prompts))
        prompts = [await self._ids(prompt, "prompt") for prompt in asked.prompts]
        rows = self._rows(asked, prompts, field="prompt", wanted=asked.max_tokens, otherwise=DEFAULT_TOKENS)
        echoes = [self._text(prompt) for prompt in asked.prompts for _ in range(asked.n)] if asked.echo else []
        return await self._answer(request, asked, rows, asked.stops, CompletionForm, echoes)

    async def chat(self, request: Request) -> Response | EventStream:
        """What the assistant answers."""
        asked = parsed(await request.body(), ChatRequest)
        self._check_model(asked.model)
        self._check_count(asked, 1)
        if self._template is None:
            raise ApiError(
                400, f"{self._name} has no chat template beside its tokenizer: POST to /v1/completions instead"
            )
        try:
            question = self._template.question([message.plain() for message in asked.messages])
        except RecordError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from None
        prompt = await self._ids(question, "messages")
        wanted = asked.max_completion_tokens or asked.max_tokens
        rows = self._rows(asked, [prompt], field="messages", wanted=wanted, otherwise=self._max_positions)
        stops = [*asked.stops, *filter(None, [self._template.end_of_turn()])]
        return await self._answer(request, asked, rows, stops, ChatForm)

    def _check_model(self, name: str | None) -> None:
        if name not in (None, self._name):
            sentence = f"there is no model {name[:LONGEST_NAME]!r}; this is {self._name}"
            raise ApiError(404, sentence, param="model", code="model_not_found")

    def _check_count(self, asked: TextRequest, prompts: int) -> None:
        if asked.n * prompts > self._most_texts:
            sentence = f"n: {asked.n} texts for each of {prompts} prompts; at most {self._most_texts} in all"
            raise ApiError(400, sentence, param="n")

    async def _ids(self, prompt: str | list[int], field: str) -> list[int]:
        """The tokens of a prompt; an empty one starts a document."""
        if isinstance(prompt, str):
            if len(prompt) > LONGEST_TOKEN * self._max_positions:
                sentence = (
                    f"{field}: {len(prompt):,} letters; the model has {self._max_positions:,} positions for tokens"
                )
                raise ApiError(400, sentence, param=field, code=TOO_LONG)
            # the event loop has others to serve meanwhile
            prompt = await asyncio.to_thread(self._tokenizer.encode, prompt)
        elif prompt and (min(prompt) < 0 or max(prompt) >= self._tokenizer.vocab_size):
            raise ApiError(400, f"{field}: ids are 0 to {self._tokenizer.vocab_size - 1}", param=field)
        if not prompt and self._tokenizer.eod is None:
            raise ApiError(400, f"{field}: is empty, and this model has no token to start a document with", param=field)
        return prompt or [self._tokenizer.eod]

    def _text(self, prompt: str | list[int]) -> str:
        return prompt if isinstance(prompt, str) else self._tokenizer.decode(prompt)

    def _rows(
        self, asked: TextRequest, prompts: Sequence[list[int]], *, field: str, wanted: int | None, otherwise: int
    ) -> list[Row]:
        """`n` rows for each prompt. wanted: the limit that was asked for, None for one of up to `otherwise` tokens."""
        # a temperature of 0 with a top_p would be one of 1 for `Sampling`, as it is in gpt-neox
        greedy = asked.temperature == 0
        sampling = Sampling() if greedy else Sampling(asked.temperature, max(0, asked.top_k), asked.top_p)
        seed = secrets.randbits(62) if asked.seed is None else asked.seed
        rows = []
        for prompt in prompts:
            room = self._max_positions - len(prompt)
            if room < 1:
                sentence = f"{field}: {len(prompt):,} tokens; the model has {self._max_positions:,} positions, so at most one less"
                raise ApiError(400, sentence, param=field, code=TOO_LONG)
            if wanted is not None and wanted > room:
                sentence = f"max_tokens: {wanted:,} after {len(prompt):,} of the {field}; the model has {self._max_positions:,} "
                raise ApiError(400, f"{sentence}positions, so at most {room:,}", param="max_tokens", code=TOO_LONG)
            for _ in range(asked.n):
                # as for the texts of a run (text.py): each of its own, and neighbouring seeds share none
                rows.append(
                    Row(prompt, min(wanted or otherwise, room), sampling, (seed * 1_000_003 + len(rows)) % 2**63)
                )
        return rows

    async def _answer(
        self,
        request: Request,
        asked: TextRequest,
        rows: Sequence[Row],
        stops: Sequence[str],
        form: type[CompletionForm | ChatForm],
        echoes: Sequence[str] = (),
    ) -> Response | EventStream:
        """echoes: what each text begins with."""
        usage: Usage = request.scope["usage"]
        usage.prompt_tokens = sum(len(row.prompt) for row in rows[:: asked.n])
        envelope = Envelope(form, self._name)
        pieces = _counted(self._writer.write(rows, stops), usage, echoes)
        if asked.stream:
            told = usage if asked.stream_options.include_usage else None
            return EventStream(_events(pieces, envelope, len(rows), told))
        return as_json(envelope.whole(await unless_gone(request.receive, _texts(pieces, len(rows))), usage))


async def _counted(pieces: Written, usage: Usage, echoes: Sequence[str]) -> Written:
    """The same pieces, their tokens counted, and before the first of each text its echo, if any."""
    unsaid = dict(enumerate(echoes))
    async with aclosing(pieces):
        async for piece in pieces:
            usage.completion_tokens += piece.tokens
            yield replace(piece, text=unsaid.pop(piece.place, "") + piece.text)


async def _texts(pieces: Written, count: int) -> list[tuple[str, str]]:
    """The whole texts, and why each ended."""
    texts: list[list[str]] = [[] for _ in range(count)]
    finishes = [""] * count
    async with aclosing(pieces):
        async for piece in pieces:
            texts[piece.place].append(piece.text)
            finishes[piece.place] = piece.finish or ""
    return [("".join(parts), finish) for parts, finish in zip(texts, finishes)]


async def _events(pieces: Written, envelope: Envelope, count: int, usage: Usage | None) -> AsyncGenerator[bytes, None]:
    """A stream's events. An error is raised before the first of them, and is one of them later."""
    begun = False
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                for opening in [] if begun else envelope.openings(count):
                    yield event(opening)
                begun = True
                if piece.text or piece.finish:
                    yield event(envelope.part(piece.place, piece.text, piece.finish))
        if usage is not None:
            yield event(envelope.usage(usage))
        yield b"data: [DONE]\n\n"
    except ApiError as error:
        if not begun:
            raise
        yield event(error.body)
