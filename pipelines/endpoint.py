"""Question -> answer over HTTP: what is served and where, and the client of any OpenAI-compatible endpoint."""

import asyncio
import base64
import dataclasses
import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import aiohttp

from infra.errors import ArtifactError
from infra.manifest import write_json
from pipelines.records import Arm

ENDPOINT_FILE = "endpoint.json"
API_KEY_VARIABLE = "PRECEPTOR_API_KEY"
_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model as a request names it. arm: what it was taught. digest: of its adapter, or of its model folder."""

    name: str
    arm: Arm
    digest: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible endpoint and the models that answer behind it. base_url ends in /v1."""

    base_url: str
    models: tuple[ServedModel, ...]

    def write(self, folder: Path) -> None:
        """Write endpoint.json into a folder."""
        write_json(folder / ENDPOINT_FILE, dataclasses.asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The endpoint that a folder's endpoint.json names; raises ArtifactError when it cannot be read."""
        path = folder / ENDPOINT_FILE
        try:
            stored = json.loads(path.read_text())
            models = tuple(ServedModel(name=m["name"], arm=Arm(m["arm"]), digest=m["digest"]) for m in stored["models"])
            return cls(base_url=stored["base_url"], models=models)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path} names no endpoint ({error!r}). Deploy first: python -m serve.app RECIPE"
            ) from error


class RequestError(Exception):
    """The endpoint gave no answer to one request; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model wrote, why it stopped, and how many tokens it took."""

    text: str
    finish_reason: str
    num_output_tokens: int


class Client:
    """Asks any OpenAI-compatible endpoint; used as `async with Client(...) as client`.

    At most `concurrency` requests are under way. A busy or briefly absent endpoint is asked again, with growing pauses.
    """

    def __init__(self, base_url: str, *, concurrency: int, timeout_s: float, api_key: str | None = None) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connector_limit = concurrency
        self._slots = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> "Client":
        connector = aiohttp.TCPConnector(limit=self._connector_limit)
        self._session = aiohttp.ClientSession(timeout=self._timeout, headers=self._headers, connector=connector)
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def check(self) -> None:
        """Raise RequestError when nothing answers there; one request, not repeated."""
        try:
            async with self._session.get(f"{self._base_url}/models"):
                return
        except (TimeoutError, aiohttp.ClientError) as error:
            raise RequestError(type(error).__name__) from error

    async def ask(self, model: str, prompt: str, images: Callable[[], list[str]], max_tokens: int) -> Answer:
        """The greedy answer of a model to images in their order, and then a prompt. Raises RequestError.

        images: gives the images' data URLs; called when the request's turn has come, so that few images are held.
        """
        async with self._slots:
            shown = [{"type": "image_url", "image_url": {"url": url}} for url in images()]
            messages = [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}]
            body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0.0}
            answered = await self._post(body)
        try:
            choice = answered["choices"][0]
            text = choice["message"]["content"] or ""
            return Answer(text, str(choice["finish_reason"]), int(answered["usage"]["completion_tokens"]))
        except (KeyError, IndexError, TypeError) as error:
            raise RequestError("answer_is_no_chat_completion") from error

    async def _post(self, body: dict[str, Any]) -> Any:
        reason = ""
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(_FIRST_PAUSE_S * 2 ** (attempt - 1))
            try:
                async with self._session.post(f"{self._base_url}/chat/completions", json=body) as response:
                    if response.status == HTTPStatus.OK:
                        return await response.json()
                    reason = f"status_{response.status}"
                    if response.status not in _RETRIED_STATUS:
                        raise RequestError(reason)
            except TimeoutError:
                reason = "timeout"
            except (aiohttp.ClientError, ValueError) as error:  # ValueError: what came back is no JSON
                reason = type(error).__name__
        raise RequestError(reason)


def data_url(image: bytes, kind: str = "png") -> str:
    """Image bytes as a URL that carries them, so that an endpoint fetches nothing."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
