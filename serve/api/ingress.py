"""HTTP -> the replica of the model that a request names: one OpenAI-compatible endpoint for all models.

A request passes, in this order: the check of its headers (`access_control`), the reading of its body (`bodies`), the
schema and limits (`validation`), the search for its model, and the queue of that model's engine (`fair_queue`). Only
then does an engine get it.
"""

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse

from infra.errors import nearest
from serve.api import errors
from serve.api.access_control import AccessControl
from serve.api.bodies import BodyReader
from serve.api.errors import Refused
from serve.api.fair_queue import FairQueue, QueuedRequest
from serve.api.openapi import document_requests, request_body
from serve.api.validation import AdmittedRequest, Limits, admit

_RESTART_PAUSE_S = 5
_CLIENT_DISCONNECTED = 499  # the status that servers log for it; nobody reads the answer
_MAX_QUOTED_CHARACTERS = 80
_LARGE_BODY_BYTES = 1 << 20
_log = logging.getLogger("ray.serve")  # the logger whose lines Serve writes to its files
_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine as the endpoint sees it: the handle of its replicas, and the queue in front of them."""

    handle: Any
    queue: FairQueue


class Ingress:
    """The endpoint.

    engines: engine name -> engine. models: model name -> engine name. answer_timeout_s: from the end of a request's
    validation to the last token of its answer.
    """

    def __init__(
        self,
        engines: Mapping[str, Engine],
        models: Mapping[str, str],
        access: AccessControl,
        limits: Limits,
        *,
        answer_timeout_s: float,
        bodies: BodyReader | None = None,
    ) -> None:
        self._engines = dict(engines)
        self._models = dict(models)
        self._access = access
        self._limits = limits
        self._answer_timeout_s = answer_timeout_s
        self._bodies = bodies or BodyReader()
        self._large_body_slot = asyncio.Semaphore(1)
        self._created = int(time.time())

    def app(self) -> Callable[..., Awaitable[None]]:
        """The endpoint as an ASGI application."""
        app = FastAPI(title="Preceptor", docs_url=None, redoc_url=None)  # the pages would load scripts from other hosts
        app.add_api_route("/v1/models", self.models, methods=["GET"])
        app.add_api_route("/v1/models/{name:path}", self.model, methods=["GET"])
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"], openapi_extra=request_body("chat"))
        app.add_api_route(
            "/v1/completions", self.completions, methods=["POST"], openapi_extra=request_body("completions")
        )
        document_requests(app)
        app.add_exception_handler(Refused, _on_refused)
        app.add_exception_handler(HTTPException, _on_unknown_path)
        app.add_exception_handler(Exception, _on_own_error)

        async def checked(scope: Any, receive: Any, send: Any) -> None:
            request = Request(scope, receive)
            try:
                self._access.check(request.headers)
            except Refused as refused:
                await _refusal(refused)(scope, receive, send)
                return
            try:
                await app(scope, receive, send)
            except Exception as error:  # noqa: BLE001 - an error of ours, which `_on_own_error` has answered
                _log.error("request failed: %s", errors.place_of(error))

        return checked

    async def models(self) -> Response:
        """Base, adapters and teacher."""
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._models]})

    async def model(self, name: str) -> Response:
        """One model."""
        return JSONResponse(self._card(self._known_model(name)))

    async def chat(self, request: Request) -> Response:
        """An answer to messages, with images or without."""
        return await self._answer("chat", request)

    async def completions(self, request: Request) -> Response:
        """The continuation of a text."""
        return await self._answer("completions", request)

    async def _answer(self, kind: str, request: Request) -> Response:
        """`held` has everything that an answer occupies (body, slot, stream); it is freed with the last byte."""
        held = AsyncExitStack()
        try:
            body = await held.enter_async_context(self._bodies.body(request))
            admitted = await self._admit(kind, body)
            del body
            engine = self._engines[self._models[self._known_model(admitted.model)]]
            client = request.client.host if request.client else ""
            deadline = asyncio.get_running_loop().time() + self._answer_timeout_s
            slots = engine.queue.slots(QueuedRequest(client, admitted.user, admitted.num_answers, admitted.num_tokens))
            await _before(deadline, _unless_disconnected(request, held.enter_async_context(slots)))
            if admitted.streams:
                answer = self._streamed(kind, admitted, engine, held, deadline)
            else:
                answer = self._whole(kind, admitted, engine, held)
            response = await _before(deadline, _unless_disconnected(request, answer))
        except BaseException as error:
            await held.aclose()
            if isinstance(error, ClientDisconnect):
                return Response(status_code=_CLIENT_DISCONNECTED)
            raise
        return response

    async def _admit(self, kind: str, body: bytes) -> AdmittedRequest:
        """Validating a large body takes a tenth of a second, which would hold up all streams: a thread does one at a
        time."""
        if len(body) < _LARGE_BODY_BYTES:
            return admit(kind, body, self._limits)
        async with self._large_body_slot:
            return await asyncio.to_thread(admit, kind, body, self._limits)

    async def _whole(self, kind: str, admitted: AdmittedRequest, engine: Engine, held: AsyncExitStack) -> Response:
        answer = engine.handle.answer.remote(kind, admitted.body)
        try:
            status, text = await answer
        except asyncio.CancelledError:
            answer.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - Ray raises any kind
            raise _engine_lost(error) from None
        await held.aclose()
        return _json(status, text)

    async def _streamed(
        self, kind: str, admitted: AdmittedRequest, engine: Engine, held: AsyncExitStack, deadline: float
    ) -> Response:
        """Server-sent events. An error that comes as the first piece is answered with its status instead."""
        pieces = engine.handle.options(stream=True).stream.remote(kind, admitted.body)
        held.callback(pieces.cancel)
        try:
            status, first = await anext(pieces)
        except Exception as error:  # noqa: BLE001 - Ray raises any kind
            raise _engine_lost(error) from None
        if status != HTTPStatus.OK:
            await held.aclose()
            return _json(status, first)
        return _EventStream(_texts(first, pieces), held, deadline)

    def _known_model(self, model: str) -> str:
        if model in self._models:
            return model
        shown = model[:_MAX_QUOTED_CHARACTERS]
        raise Refused(HTTPStatus.NOT_FOUND, f"No model is named {shown!r}.{nearest(shown, self._models)}")

    def _card(self, model: str) -> dict[str, Any]:
        engine = self._models[model]
        card = {"id": model, "object": "model", "created": self._created, "owned_by": "preceptor", "root": model}
        return card if model == engine else card | {"parent": engine}


class _EventStream(StreamingResponse):
    """Server-sent events; frees what the answer holds when it ends, however it ends."""

    def __init__(self, texts: AsyncIterator[str], held: AsyncExitStack, deadline: float) -> None:
        super().__init__(texts, media_type="text/event-stream")
        self._held = held
        self._deadline = deadline

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Called by the server. A client that does not read is cut off at the deadline."""
        async with self._held:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._deadline):
                    await super().__call__(scope, receive, send)


async def _texts(first: str, pieces: AsyncIterator[tuple[int, str]]) -> AsyncIterator[str]:
    yield first
    try:
        async for _, text in pieces:
            yield text
    except Exception as error:  # noqa: BLE001 - the status is sent; clients read this event as an error
        lost = _engine_lost(error)
        yield f"data: {errors.as_json(lost.status, lost.message)}\n\n"


async def _unless_disconnected(request: Request, work: Awaitable[_T]) -> _T:
    """The result of work, which is cancelled with ClientDisconnect when its client disconnects."""
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        disconnected.cancel()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # its error is of no use to anyone now, and is not logged


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _before(deadline: float, work: Awaitable[_T]) -> _T:
    try:
        async with asyncio.timeout_at(deadline):
            return await work
    except TimeoutError:
        message = "The answer took too long; ask for fewer tokens."
        raise Refused(HTTPStatus.GATEWAY_TIMEOUT, message, retry_after_s=30) from None


def _engine_lost(error: Exception) -> Refused:
    """A replica answers whatever its engine raises, so an error that arrives here is the loss of the replica."""
    _log.error("a replica did not answer: %s", errors.place_of(error))
    return Refused(HTTPStatus.SERVICE_UNAVAILABLE, "The engine is being started again.", retry_after_s=_RESTART_PAUSE_S)


async def _on_refused(request: Request, refused: Exception) -> Response:
    return _refusal(refused) if isinstance(refused, Refused) else Response(status_code=500)


async def _on_unknown_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else int(HTTPStatus.NOT_FOUND)
    return _json(status, errors.as_json(status, "The endpoint has /v1/chat/completions, /v1/completions, /v1/models."))


async def _on_own_error(request: Request, error: Exception) -> Response:
    return _json(500, errors.as_json(500, "The endpoint failed on this request; its log says where."))


def _refusal(refused: Refused) -> Response:
    return _json(refused.status, errors.as_json(refused.status, refused.message), refused.headers())


def _json(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    return Response(text, status, headers=headers, media_type="application/json")
