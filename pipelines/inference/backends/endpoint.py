"""An OpenAI-compatible endpoint as a backend: the model is served elsewhere, and images travel in the request."""

import asyncio
from collections.abc import Sequence

from infra.errors import ClusterError
from pipelines.inference.backends import chat
from pipelines.inference.backends.backend import NOTHING, Before, Completion, RowError, ShownImage
from pipelines.inference.backends.client import API_KEY_VARIABLE, Client, RequestError, api_key
from pipelines.inference.config import InferenceConfig

_CHECK_TIMEOUT_S = 30.0
_SHOWN_MODELS, _SHOWN_NAME = 5, 100


class EndpointBackend:
    """Sends each request to the endpoint."""

    def __init__(self, config: InferenceConfig) -> None:
        self.num_at_once = config.engine.max_num_seqs
        self._config = config
        self._client: Client | None = None

    async def generate(
        self, prompt: str, images: Sequence[ShownImage], seed: int, before: Before = NOTHING
    ) -> Completion:
        """See `Backend`."""
        client = await self._connected()
        config = self._config
        try:
            # Images are read, and encoded, in the client's thread.
            answered = await client.post(
                lambda: chat.body(config.model.name, prompt, map(chat.image_url, images), config.sampling, seed, before)
            )
        except RequestError as error:
            raise RowError(str(error)) from None
        return chat.completion(answered)

    async def close(self) -> None:
        """See `Backend`."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__()

    async def _connected(self) -> Client:
        if self._client is None:
            # The worker ends a request when its time is over; a client that did so itself would first try again.
            timeout_s = 2 * self._config.timeout_s
            self._client = await _client(self._config, self.num_at_once, timeout_s).__aenter__()
        return self._client


def check(config: InferenceConfig) -> None:
    """Raise ClusterError unless the endpoint answers and serves the model; before any request is sent.

    Without an endpoint there is nothing to check.
    """
    if config.endpoint:
        asyncio.run(_check(config, config.endpoint))


async def _check(config: InferenceConfig, endpoint: str) -> None:
    try:
        async with _client(config, 1, min(config.timeout_s, _CHECK_TIMEOUT_S)) as client:
            served = await client.models()
    except RequestError as error:
        raise ClusterError(_no_model_at(endpoint, str(error), config.advice)) from None
    if config.model.name not in served:
        names = ", ".join(repr(name[:_SHOWN_NAME]) for name in served[:_SHOWN_MODELS]) or "no model"
        more = f" and {len(served) - _SHOWN_MODELS} more" if len(served) > _SHOWN_MODELS else ""
        raise ClusterError(f"{endpoint} serves {names}{more}, and no {config.model.name!r}. {config.advice}")


def _no_model_at(endpoint: str, reason: str, advice: str) -> str:
    if reason in ("status_401", "status_403"):
        problem = "refuses the key in" if api_key() else "wants a key, and there is none in"
        return f"{endpoint} {problem} {API_KEY_VARIABLE} ({reason}). Set that variable to the endpoint's key."
    if reason.startswith("status_") or reason == "no_list_of_models":
        return (
            f"{endpoint}/models lists no models ({reason}). The base URL of an OpenAI-compatible endpoint mostly ends "
            f"in /v1. {advice}"
        )
    return f"Nothing answers at {endpoint} ({reason}). {advice}"


def _client(config: InferenceConfig, concurrency: int, timeout_s: float) -> Client:
    assert config.endpoint is not None
    return Client(
        config.endpoint,
        concurrency=concurrency,
        timeout_s=timeout_s,
        patience_s=config.timeout_s,
        api_key=api_key(),
    )
