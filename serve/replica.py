"""Request -> answer of one model: the deployment that holds an engine, base and adapters alike.

Requests and answers cross as plain JSON, so that only the replica imports vLLM.
"""

import importlib
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from infra.errors import ClusterError
from pipelines.engine import EngineConfig
from serve import refusals

_IMPORT_ATTEMPTS = 10  # Ray registers four parts, each of which another replica can be first with


class ModelReplica:
    """One engine. A request's `model` names the base or an adapter; the ingress has checked that it exists."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        name: str,
        source: str,
        config: EngineConfig,
        adapters: Mapping[str, str],
        max_lora_rank: int,
        image_domains: tuple[str, ...],
    ) -> None:
        self._engine = import_engine()
        self._server = await self._engine.start(
            self._engine.llm_config(name, source, config, adapters, max_lora_rank, image_domains)
        )

    async def check_health(self) -> None:
        """Called by Serve at intervals; raises when the engine is dead, and the replica is started again."""
        await self._server.check_health()

    async def answer(self, kind: str, body: dict[str, Any]) -> tuple[int, str]:
        """HTTP status and JSON of a whole answer. kind: `chat` or `completions`."""
        async for status, text in self.stream(kind, body):
            return status, text
        return self._refused(HTTPStatus.INTERNAL_SERVER_ERROR, "The engine ended without an answer.")

    async def stream(self, kind: str, body: dict[str, Any]) -> AsyncIterator[tuple[int, str]]:
        """Pieces of an answer as they are written, each with its HTTP status: server-sent events, or one JSON."""
        try:
            request = self._engine.REQUESTS[kind].model_validate(body)
            async for piece in await getattr(self._server, kind)(request):
                yield self._as_text(piece)
        except ValueError as error:
            yield self._refused(HTTPStatus.BAD_REQUEST, _reason(error))

    def _as_text(self, piece: Any) -> tuple[int, str]:
        pieces = piece if isinstance(piece, list) else [piece]
        if isinstance(pieces[0], self._engine.ErrorResponse):
            return self._refused(pieces[0].error.code, pieces[0].error.message)
        return HTTPStatus.OK, "".join(part if isinstance(part, str) else part.model_dump_json() for part in pieces)

    def _refused(self, status: int, message: str) -> tuple[int, str]:
        return int(status), refusals.as_json(status, message)


def import_engine() -> Any:
    """The module `serve.engine`, imported where it is used.

    While it is imported, Ray registers its own parts in the cluster if it finds them missing there, and raises when
    another replica has done so in between: then they are there, and the import is tried again.
    """
    for _ in range(_IMPORT_ATTEMPTS):
        try:
            return importlib.import_module("serve.engine")
        except ValueError as error:
            if "is already registered" not in str(error):
                raise
    raise ClusterError(f"Ray's own parts could not be registered in {_IMPORT_ATTEMPTS} attempts; deploy again.")


def _reason(error: ValueError) -> str:
    """What is wrong with a request, without repeating the request: it may hold a patient's image."""
    details = getattr(error, "errors", None)
    if details is None:
        return str(error)
    first = details()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
