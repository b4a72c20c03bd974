"""Request -> answer of one model: the deployment that holds an engine, base and adapters alike.

Requests and answers cross as plain JSON, so that only the replica imports vLLM.
"""

import importlib
import logging
import re
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Any

from infra.errors import ClusterError
from infra.imports import pause_garbage_collection, skip_optional_imports
from pipelines.inference.backends.engine_config import EngineConfig
from serve.api import errors
from serve.api.validation import Limits
from serve.catalogue import HostedModel

_log = logging.getLogger("ray.serve")  # the logger whose lines Serve writes to its files
_VLLM_DAMAGED_IMAGE = "Failed to load image"
_MEDIA_CODE = "/vllm/multimodal/media/"
# vLLM's messages that repeat nothing of the request; all others stay here.
_SAFE_MESSAGE = re.compile(
    r"This model's maximum context length is \d+ tokens(?:\. However, you requested \d+ output tokens and your prompt "
    r"contains (?:at least )?\d+ (?:input tokens|characters))?"
    r"|max_(?:completion_)?tokens=\d+ cannot be greater than max_model_len=\w*=?\d+"
    r"|Input length \(\d+\) exceeds model's maximum context length \(\d+\)"
    r"|At most \d+ image\(s\) may be provided in one prompt"
    r"|n must be 1 when using greedy sampling"
    r"|min_tokens must be less than or equal to max_tokens"
)
_IMPORT_ATTEMPTS = 10  # Ray registers four parts, and another replica may be first with each


class ModelReplica:
    """One engine. A request's `model` names the base or an adapter; the ingress has checked that it exists."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        model: HostedModel,
        config: EngineConfig,
        adapters: Mapping[str, str],
        max_lora_rank: int,
        limits: Limits,
    ) -> None:
        self._engine = import_engine()
        self._server = await self._engine.start(self._engine.llm_config(model, config, adapters, max_lora_rank, limits))

    async def check_health(self) -> None:
        """Called by Serve at intervals; raises when the engine is dead, and the replica is started again."""
        await self._server.check_health()

    async def answer(self, kind: str, body: dict[str, Any]) -> tuple[int, str]:
        """HTTP status and JSON of a whole answer. kind: `chat` or `completions`."""
        async for status, text in self.stream(kind, body):
            return status, text
        return _refused(HTTPStatus.INTERNAL_SERVER_ERROR, "")

    async def stream(self, kind: str, body: dict[str, Any]) -> AsyncIterator[tuple[int, str]]:
        """Pieces of an answer as they are written, each with its HTTP status: server-sent events, or one JSON.

        Whatever the engine raises becomes an answer: an error that left this method would carry the request into Ray's
        logs, and one that Ray cannot pass on would end the replica.
        """
        try:
            request = self._engine.REQUESTS[kind].model_validate(body)
            async for piece in await getattr(self._server, kind)(request):
                yield self._as_text(piece)
        except Exception as error:  # noqa: BLE001 - see above
            yield _answer_to(error)

    def _as_text(self, piece: Any) -> tuple[int, str]:
        pieces = piece if isinstance(piece, list) else [piece]
        if isinstance(pieces[0], self._engine.ErrorResponse):
            return _refused(pieces[0].error.code, pieces[0].error.message)
        text = "".join(part if isinstance(part, str) else part.model_dump_json() for part in pieces)
        return HTTPStatus.OK, _as_utf8(text)


def _answer_to(error: Exception) -> tuple[int, str]:
    """The answer to a request on which the engine raised an error: the request's fault, or ours."""
    if _is_of_media(error):
        return _refused(HTTPStatus.BAD_REQUEST, _VLLM_DAMAGED_IMAGE)
    # vLLM's own errors about requests are recognised by name: this module does not import vLLM.
    if any(kind.__name__ in ("ValueError", "VLLMClientError") for kind in type(error).__mro__):
        _log.warning("the engine refused a request: %s", errors.place_of(error))
        return _refused(HTTPStatus.BAD_REQUEST, str(error))
    _log.error("the engine failed on a request: %s", errors.place_of(error))
    is_dead = type(error).__name__ == "EngineDeadError"
    return _refused(HTTPStatus.SERVICE_UNAVAILABLE if is_dead else HTTPStatus.INTERNAL_SERVER_ERROR, "")


def _is_of_media(error: BaseException | None) -> bool:
    """Whether vLLM raised it while it decoded an image: decoders raise all kinds of errors on damaged bytes."""
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            if _MEDIA_CODE in trace.tb_frame.f_code.co_filename:
                return True
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return False


def _refused(status: int, engine_message: str) -> tuple[int, str]:
    """An error's status and JSON. The engine's message is passed on only where it repeats nothing of the request."""
    if _VLLM_DAMAGED_IMAGE in engine_message:
        message = "An image is damaged: it does not decode."
    elif safe := _SAFE_MESSAGE.search(engine_message):
        message = f"{safe[0].rstrip('. ')}."
    elif status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        message = "The engine failed on this request."
    else:
        message = "The engine does not take this request: a setting, or a combination of settings, is out of its range."
    return int(status), errors.as_json(status, message)


def _as_utf8(text: str) -> str:
    """The text without half surrogate pairs, which UTF-8 cannot encode."""
    return text.encode(errors="replace").decode()


def import_engine() -> Any:
    """The module `serve.engine.server`, imported where it is used; raises ClusterError when Ray never lets it.

    While it is imported, Ray registers parts of its own in the cluster if they are missing, and raises when another
    replica registers them at the same moment. Then they are there, and the import is tried again.
    """
    for _ in range(_IMPORT_ATTEMPTS):
        try:
            with skip_optional_imports(), pause_garbage_collection():
                return importlib.import_module("serve.engine.server")
        except ValueError as error:
            if "is already registered" not in str(error):
                raise
    raise ClusterError(f"Ray's own parts could not be registered in {_IMPORT_ATTEMPTS} attempts; deploy again.")
