"""The HTTP client of any OpenAI-compatible endpoint: bounded, patient, and never led elsewhere."""

import asyncio
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from pydantic_core import to_json

API_KEY_VARIABLE = "PRECEPTOR_API_KEY"
_RETRIED_STATUS = frozenset({408, 429, 500, 502, 503, 504})
_ATTEMPTS = 4
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_MOST_ANSWER_BYTES = 16 << 20
_JSON = {"Content-Type": "application/json"}
TOO_LONG = "prompt_too_long"
# How servers say that a prompt does not fit: OpenAI and vLLM, llama.cpp, Anthropic, SGLang, TGI.
_SAYS_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|exceed_context|prompt is too long|longer than the (?:maximum )?model"
    r"|maximum model length|`inputs` tokens \+ `max_new_tokens`",
    re.IGNORECASE,
)


def api_key() -> str | None:
    """The key of the environment, without the line's end that a file's content brings; None where there is none."""
    return os.environ.get(API_KEY_VARIABLE, "").strip() or None


class RequestError(Exception):
    """The endpoint gave no answer to one request; the message is the reason."""


class Client:
    """Asks any OpenAI-compatible endpoint; used as `async with Client(...) as client`.

    At most `concurrency` requests are under way. A busy or briefly absent endpoint is asked again, with growing pauses,
    or after the one that it asks for. What is sent goes to that address alone: no redirect is followed, and no proxy of
    the environment is used.

    timeout_s: for one answer. patience_s: since a request was first sent; no pause is begun that ends later, so that
    the reason is what the endpoint said, and not that time ran out.
    """

    def __init__(
        self,
        base_url: str,
        *,
        concurrency: int,
        timeout_s: float,
        patience_s: float = math.inf,
        api_key: str | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._patience_s = patience_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._connector_limit = concurrency

    async def __aenter__(self) -> "Client":
        connector = aiohttp.TCPConnector(limit=self._connector_limit)
        self._session = aiohttp.ClientSession(
            timeout=self._timeout, headers=self._headers, connector=connector, trust_env=False
        )
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._session.close()

    async def check(self) -> None:
        """Raise RequestError when nothing answers there; one request, not repeated."""
        try:
            async with self._session.get(f"{self._base_url}/models", allow_redirects=False):
                return
        except (TimeoutError, aiohttp.ClientError) as error:
            raise RequestError(_reason(error)) from error

    async def models(self) -> list[str]:
        """The names under which models are served there. Raises RequestError; one request, not repeated."""
        try:
            async with self._session.get(f"{self._base_url}/models", allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    raise RequestError(f"status_{response.status}")
                return [str(model["id"]) for model in (await _json(response))["data"]]
        except (TimeoutError, aiohttp.ClientError) as error:
            raise RequestError(_reason(error)) from error
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RequestError("no_list_of_models") from None

    async def post(self, body: Callable[[], dict[str, Any]]) -> Any:
        """The JSON that a chat completion's request is answered with. Raises RequestError, and what `body` raises.

        body: gives the request. It is called in another thread, since images are read for it, and only now, so that
        few images are held.
        """
        # Megabytes of a data URL, which Python's own JSON would hold all threads up for.
        sent = await asyncio.to_thread(lambda: to_json(body()))
        reason, asked_for_s, began = "", 0.0, time.monotonic()
        for attempt in range(_ATTEMPTS):
            if attempt:
                pause_s = max(_FIRST_PAUSE_S * 2 ** (attempt - 1), asked_for_s)
                if time.monotonic() - began + pause_s > self._patience_s:
                    break
                await asyncio.sleep(pause_s)
            asked_for_s = 0.0
            try:
                async with self._session.post(
                    f"{self._base_url}/chat/completions",
                    data=io.BytesIO(sent),
                    headers=_JSON,
                    allow_redirects=False,
                ) as response:
                    if response.status == HTTPStatus.OK:
                        return await _json(response)
                    reason = f"status_{response.status}"
                    if response.status not in _RETRIED_STATUS:
                        raise RequestError(refusal(response.status, await _json_or_none(response)))
                    asked_for_s = _pause_asked_for(response.headers)
            except (TimeoutError, aiohttp.ClientError) as error:
                reason = _reason(error)
            except (ValueError, RecursionError):
                reason = "answer_is_no_json"
        raise RequestError(reason)


def _reason(error: Exception) -> str:
    """What kept an answer from coming, in a word of ours."""
    if isinstance(error, TimeoutError):
        return "timed_out"
    if isinstance(error, aiohttp.InvalidURL):
        return "no_address"
    return "not_reachable" if isinstance(error, aiohttp.ClientConnectorError) else "connection_lost"


def refusal(status: int, body: Any) -> str:
    """Why an endpoint refused a request, in a word of ours: what it says itself may repeat the prompt."""
    said = body.get("error", body) if isinstance(body, dict) else body
    words = [said.get(name) for name in ("message", "code", "type")] if isinstance(said, dict) else [said]
    too_long = any(isinstance(word, str) and _SAYS_TOO_LONG.search(word) for word in words)
    return TOO_LONG if too_long and status == HTTPStatus.BAD_REQUEST else f"status_{status}"


async def _json(response: aiohttp.ClientResponse) -> Any:
    """What an answer holds, in bounded memory; raises RequestError and ValueError."""
    received = bytearray()
    async for block in response.content.iter_any():
        received += block
        if len(received) > _MOST_ANSWER_BYTES:
            raise RequestError("answer_too_large")
    return json.loads(received)


async def _json_or_none(response: aiohttp.ClientResponse) -> Any:
    try:
        return await _json(response)
    except (RequestError, TimeoutError, aiohttp.ClientError, ValueError, RecursionError):
        return None


def _pause_asked_for(headers: Mapping[str, str]) -> float:
    """Seconds of a Retry-After header, within reason; 0 where there is none, or a date."""
    said = headers.get("Retry-After", "")
    return min(float(said), _LONGEST_PAUSE_S) if re.fullmatch(r"\d{1,9}(?:\.\d{1,9})?", said) else 0.0
