"""Answers on their way to the client: JSON, errors, and streams of events, all of which end where the client has hung up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from neox.inference.protocol import ApiError

RETRY_SECONDS = 1
HUNG_UP = 499  # what nginx notes of clients that did not wait for their answer
# by status, what a client is told beside the error
HEADERS = {
    401: {"www-authenticate": "Bearer"},
    413: {"connection": "close"},
    429: {"retry-after": str(RETRY_SECONDS)},
    503: {"retry-after": str(RETRY_SECONDS), "connection": "close"},
}

Result = TypeVar("Result")


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON object."""
    return Response(orjson.dumps(content), status, headers, "application/json")


def failure(error: ApiError) -> Response:
    """An error as OpenAI's API tells it."""
    return as_json(error.body, error.status, HEADERS.get(error.status))


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + orjson.dumps(content) + b"\n\n"


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """The result of the work, which is cancelled where the client hangs up; then raises ClientDisconnect."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        # what is cancelled gives back what it holds before anything else happens
        await asyncio.gather(*tasks, return_exceptions=True)


class EventStream:
    """Server-sent events as a response. Its status waits for the first event, so that an error before that has its own."""

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        self._events = events

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(ClientDisconnect):
            await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            first = await anext(events)
            headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for part in events:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
