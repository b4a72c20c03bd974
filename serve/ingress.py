"""HTTP -> the replica of the model that a request names: one OpenAI-compatible endpoint for all models.

It checks the key and the model's name, has `admission` look at the body, and leaves the rest to the engine.
"""

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from infra.errors import nearest
from serve import refusals
from serve.admission import MAX_BODY_BYTES, admit
from serve.refusals import Refused

app = FastAPI(openapi_url=None)


@app.exception_handler(Refused)
async def _refuse(request: Request, refused: Refused) -> Response:
    return _json(refused.status, refusals.as_json(refused.status, refused.message))


class Ingress:
    """The endpoint. engines: engine name -> handle of its replicas. models: model name -> engine name.

    key_digest: of the key that requests must carry, None when they need none. image_domains: hosts of image URLs.
    """

    def __init__(
        self,
        engines: Mapping[str, Any],
        models: Mapping[str, str],
        key_digest: str | None,
        image_domains: tuple[str, ...],
    ) -> None:
        self._models = dict(models)
        self._whole = {model: engines[engine].answer for model, engine in models.items()}
        self._pieces = {model: engines[engine].options(stream=True).stream for model, engine in models.items()}
        self._key_digest = key_digest
        self._image_domains = image_domains
        self._created = int(time.time())

    @app.get("/v1/models")
    async def models(self, request: Request) -> Response:
        """Base, adapters and teacher."""
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._models]})

    @app.get("/v1/models/{name:path}")
    async def model(self, name: str, request: Request) -> Response:
        """One model."""
        self._check_key(request)
        return JSONResponse(self._card(self._known(name)))

    @app.post("/v1/chat/completions")
    async def chat(self, request: Request) -> Response:
        """An answer to messages, with images or without."""
        return await self._answer("chat", request)

    @app.post("/v1/completions")
    async def completions(self, request: Request) -> Response:
        """The continuation of a text."""
        return await self._answer("completions", request)

    async def _answer(self, kind: str, request: Request) -> Response:
        self._check_key(request)
        body = admit(await _body(request), self._image_domains)
        model = self._known(body.get("model"))
        if body.get("stream"):
            return await _streamed(self._pieces[model].remote(kind, body))
        return _json(*await self._whole[model].remote(kind, body))

    def _known(self, model: Any) -> str:
        if isinstance(model, str) and model in self._models:
            return model
        raise Refused(HTTPStatus.NOT_FOUND, f"No model is named {model!r}.{nearest(str(model), self._models)}")

    def _card(self, model: str) -> dict[str, Any]:
        engine = self._models[model]
        card = {"id": model, "object": "model", "created": self._created, "owned_by": "preceptor", "root": model}
        return card if model == engine else card | {"parent": engine}

    def _check_key(self, request: Request) -> None:
        if self._key_digest is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(digest_key(given), self._key_digest):
            raise Refused(HTTPStatus.UNAUTHORIZED, "This endpoint needs its API key: Authorization: Bearer KEY")


def digest_key(key: str) -> str:
    """What the endpoint keeps of its key: enough to know it again, useless to whoever reads Ray's state."""
    return hashlib.sha256(key.encode()).hexdigest()


async def _body(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"A body may have {MAX_BODY_BYTES >> 20} MiB.")
        parts.append(part)
    return b"".join(parts)


async def _streamed(pieces: AsyncIterator[Sequence[Any]]) -> Response:
    """Server-sent events; what is wrong is known with the first piece, and then the answer is an error as a whole."""
    status, first = await anext(pieces)
    if status != HTTPStatus.OK:
        return _json(status, first)

    async def texts() -> AsyncIterator[str]:
        yield first
        async for _, text in pieces:
            yield text

    return StreamingResponse(texts(), media_type="text/event-stream")


def _json(status: int, text: str) -> Response:
    return Response(text, status, media_type="application/json")
