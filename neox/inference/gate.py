"""Every request passes here on its way in and out: who may ask, how much at once, and a line of the log for each. Knows nothing of
what the answers are.
"""

from __future__ import annotations

import hmac
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from neox.inference.protocol import ApiError, Usage
from neox.inference.responses import HUNG_UP, failure

MOST_BODY_BYTES = 1 << 20  # a prompt of 130,000 ids fits, or of as many words
LONGEST_LOGGED_PATH = 100

log = logging.getLogger("neox.serve")


class Gate:
    """An ASGI application before another.

    key: what clients show as their bearer token, None for everybody. most_requests: that are read or answered at the same time.
    draining: set once nothing new is taken.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, most_requests: int) -> None:
        self.draining = False
        self.requests = 0  # being read or answered
        self._app = app
        self._key = key
        self._most_requests = most_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = time.monotonic(), HUNG_UP

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        scope["usage"] = Usage()
        try:
            self._check(scope)
            self.requests += 1
            try:
                await self._app(scope, _again(await _body(scope, receive), receive), noting)
            finally:
                self.requests -= 1
        except ApiError as error:
            await failure(error)(scope, receive, noting)
        except ClientDisconnect:
            pass
        finally:
            _note(scope, status, time.monotonic() - began)

    def _check(self, scope: Scope) -> None:
        """Raises ApiError where a request is refused whatever it says."""
        if self.draining:
            raise ApiError(503, "the server is stopping")
        if scope["path"] == "/health":
            return
        shown = dict(scope["headers"]).get(b"authorization", b"")
        if self._key is not None and not hmac.compare_digest(shown, b"Bearer " + self._key.encode()):
            raise ApiError(401, "the bearer token is missing or wrong", code="invalid_api_key")
        if self.requests >= self._most_requests:
            sentence = f"{self.requests} requests are at work, of at most {self._most_requests}"
            raise ApiError(429, sentence, code="rate_limit_exceeded")


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body; ApiError 413 where there is too much of it, before it is read where its length is told."""
    too_long = ApiError(413, f"the body has more than {MOST_BODY_BYTES:,} bytes")
    if int(dict(scope["headers"]).get(b"content-length", 0)) > MOST_BODY_BYTES:
        raise too_long
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message["body"]
        if len(body) > MOST_BODY_BYTES:
            raise too_long
        if not message["more_body"]:
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that has been read, to be read by the application; what comes after it is whatever comes."""
    unread = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return unread.pop() if unread else await receive()

    return receive_again


def _note(scope: Scope, status: int, seconds: float) -> None:
    """One line; what is asked and answered is nobody's business."""
    client = scope["client"][0] if scope["client"] else "-"
    path, usage = scope["raw_path"].decode("latin-1")[:LONGEST_LOGGED_PATH], scope["usage"]
    tokens = f", {usage.prompt_tokens} + {usage.completion_tokens} tokens" if usage.prompt_tokens else ""
    log.info("%s %s %s %s, %.3f s%s", client, scope["method"], path, status, seconds, tokens)
