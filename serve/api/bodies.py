"""Reads the bodies of requests, in bounded time each and bounded memory together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from starlette.requests import Request

from serve.api.errors import Refused
from serve.api.schema import MAX_BODY_BYTES

_READ_TIMEOUT_S = 30.0
_MAX_HELD_BYTES = 1 << 30


class BodyReader:
    """Reads bodies. read_timeout_s: for a whole body. max_held_bytes: of all requests that are not answered yet."""

    def __init__(self, *, read_timeout_s: float = _READ_TIMEOUT_S, max_held_bytes: int = _MAX_HELD_BYTES) -> None:
        self._read_timeout_s = read_timeout_s
        self._max_held_bytes = max_held_bytes
        self.held_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request) -> AsyncIterator[bytes]:
        """A request's body, which counts as held until the block ends.

        Raises Refused when it is too large, arrives too slowly, or too many bytes are held already; ClientDisconnect
        when its client disconnects.
        """
        bodies = [await self._read_in_time(request)]
        size = len(bodies[0])
        try:
            yield bodies.pop()  # not kept here: an answer takes minutes, and the engine gets a copy anyway
        finally:
            self.held_bytes -= size

    async def _read_in_time(self, request: Request) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._read_timeout_s):
                await self._read(request, body)
            return bytes(body)
        except BaseException as error:
            self.held_bytes -= len(body)
            if not isinstance(error, TimeoutError):
                raise
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT, f"The body took longer than {self._read_timeout_s:g} s to arrive."
            ) from None

    async def _read(self, request: Request, body: bytearray) -> None:
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
            raise _too_large()
        async for part in request.stream():
            if len(body) + len(part) > MAX_BODY_BYTES:
                raise _too_large()
            if self.held_bytes + len(part) > self._max_held_bytes:
                raise Refused(HTTPStatus.TOO_MANY_REQUESTS, "The endpoint is busy; ask again later.", retry_after_s=5)
            self.held_bytes += len(part)
            body += part


def _too_large() -> Refused:
    return Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body may have {MAX_BODY_BYTES >> 20} MiB.")
