"""A prompt and its images -> what a teacher writes: by a vLLM engine of our own, or by an endpoint elsewhere.

Light: vLLM is imported when an engine of it starts.
"""

import asyncio
import dataclasses
import math
import os
import re
import sys
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from infra.errors import ClusterError
from pipelines.images.sealed import SealedImage
from pipelines.inference.client import API_KEY_VARIABLE, Client, RequestError, image_url
from pipelines.inference.engine_config import EngineConfig, keep_in_one_process, needs_own_code, own_code_is_refused
from pipelines.inference.engine_process import started_with_thrift
from pipelines.inference.logprobs import Likeliest, vocabulary_digest
from pipelines.teaching.config import TeachConfig

# Beside those that it is writing, an engine holds as many requests ready: answers of like length end together, and it
# would wait for the next images.
_REQUESTS_AT_ONCE = 2
_NICENESS = 10
_CHECK_TIMEOUT_S = 30.0
_SHOWN_MODELS, _SHOWN_NAME = 5, 100
_FINISH_REASON = re.compile(r"[a-z_]{1,32}")
_MOST_TOKENS = 1 << 40


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What was written, why it ended (`stop` or `length`), and how many tokens it took.

    logprobs: of the tokens written, as far as they are told. likeliest: tokens in their places, where the recipe keeps
    them. thoughts: where the engine tells them apart from the text.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    logprobs: Sequence[float] = ()
    likeliest: Likeliest | None = None
    thoughts: str = ""


class RowError(Exception):
    """One request failed, for the reason that is the message; the engine goes on."""


class EngineDiedError(Exception):
    """The engine is gone, and whatever was asked of it with it."""


class Engine(Protocol):
    """A teacher that writes.

    num_at_once: how many requests it is to be given at a time.
    """

    num_at_once: int

    async def generate(self, prompt: str, shown: Sequence[SealedImage], seed: int) -> Completion:
        """What is written about these images. Raises RowError, UnreadableImageError, or EngineDiedError."""
        ...


def start(config: TeachConfig) -> Engine:
    """The engine of a recipe; a vLLM engine takes half a minute at pocket scale, and minutes for a large model."""
    return EndpointEngine(config) if config.endpoint else VllmEngine(config)


class VllmEngine:
    """A vLLM engine in this process, or beside it."""

    def __init__(self, config: TeachConfig) -> None:
        self.num_at_once = _REQUESTS_AT_ONCE * config.engine.max_num_seqs
        self._config = config
        with started_with_thrift():
            self._engine = start_vllm(config.teacher, config.engine, config.revision)
        self._vocabulary = vocabulary_digest(self._engine.tokenizer.get_vocab()) if config.top_logprobs else ""
        if not config.engine.gpus:
            _yield_to_the_engine()

    async def generate(self, prompt: str, shown: Sequence[SealedImage], seed: int) -> Completion:
        """See `Engine`."""
        from vllm.exceptions import VLLMClientError, VLLMServerError
        from vllm.v1.engine.exceptions import EngineDeadError

        request: dict[str, Any] = {"prompt": self._rendered(prompt, len(shown))}
        if shown:
            request["multi_modal_data"] = {"image": [await asyncio.to_thread(image.decode) for image in shown]}
            request["multi_modal_uuids"] = {"image": [image.digest for image in shown]}  # so that vLLM need not hash
        try:
            return await self._write(request, seed)
        except EngineDeadError as error:
            raise EngineDiedError from error
        # vLLM's words for a request that it cannot take; their text may repeat the request.
        except (VLLMClientError, ValueError) as error:
            raise RowError("prompt_too_long" if "length" in str(error) else "refused_by_engine") from None
        except VLLMServerError:
            raise RowError("engine_error") from None

    async def _write(self, request: dict[str, Any], seed: int) -> Completion:
        states = self._engine.generate(request, self._sampling(seed), request_id=uuid.uuid4().hex)
        (final,) = [state async for state in states]
        (output,) = final.outputs
        written, told, num = output.token_ids, output.logprobs, self._config.top_logprobs
        return Completion(
            text=self._engine.tokenizer.decode(written, skip_special_tokens=True),
            finish_reason=str(output.finish_reason),
            num_prompt_tokens=len(final.prompt_token_ids),
            num_output_tokens=len(written),
            logprobs=told.logprobs[:: 1 + num] if told else (),
            likeliest=Likeliest.of(self._vocabulary, written, told.token_ids, told.logprobs, num) if num else None,
        )

    def _sampling(self, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            top_k=self._config.top_k,
            max_tokens=self._config.max_tokens,
            seed=seed,
            logprobs=self._config.top_logprobs,  # beside that of the token that was written
            flat_logprobs=True,
            # Nobody reads along: made once in the end, the text costs less than made anew with every token.
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _rendered(self, prompt: str, num_images: int) -> str:
        content = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
        return str(
            self._engine.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        )


def _yield_to_the_engine() -> None:
    """Let the process that computes on the CPU go before this one, which prepares what it computes next.

    It has been started with the priority of before. Linux has one for each thread, and new ones inherit it.
    """
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICENESS)


def vllm_arguments(model: str, config: EngineConfig, revision: str | None) -> dict[str, Any]:
    """All arguments of a teacher's engine, but for the one that forbids a model's own code."""
    return {"model": model, "revision": revision, **config.arguments()}


def start_vllm(model: str, config: EngineConfig, revision: str | None = None) -> Any:
    """An asynchronous vLLM engine for a model folder, or a hub's model id in a revision."""
    os.environ.update(config.environment())
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    arguments = vllm_arguments(model, config, revision)
    try:
        vllm_config = AsyncEngineArgs(trust_remote_code=False, **arguments).create_engine_config()
    except ValueError as error:
        if needs_own_code(error):
            raise own_code_is_refused(model) from error
        raise
    keep_in_one_process(vllm_config)
    return AsyncLLM.from_vllm_config(vllm_config, disable_log_stats=True)


class EndpointEngine:
    """An OpenAI-compatible endpoint, which has the teacher elsewhere. Images travel in the request."""

    def __init__(self, config: TeachConfig) -> None:
        self.num_at_once = config.engine.max_num_seqs
        self._config = config
        self._client: Client | None = None

    async def generate(self, prompt: str, shown: Sequence[SealedImage], seed: int) -> Completion:
        """See `Engine`."""
        client = await self._connected()
        try:
            return completion(await client.post(lambda: chat_body(self._config, prompt, map(image_url, shown), seed)))
        except RequestError as error:
            raise RowError(str(error)) from None

    async def close(self) -> None:
        """End the connections; the next request opens new ones."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__()

    async def _connected(self) -> Client:
        if self._client is None:
            # Whoever asks ends a row when its time is over; a client that did so itself would first try again.
            timeout_s = 2 * self._config.timeout_s
            self._client = await _client(self._config, self.num_at_once, timeout_s).__aenter__()
        return self._client


def check(config: TeachConfig) -> None:
    """Raise ClusterError unless the recipe's endpoint answers and serves the teacher; at once, before a row is asked.

    A recipe without an endpoint has nothing to check.
    """
    if config.endpoint:
        asyncio.run(_check(config, config.endpoint))


async def _check(config: TeachConfig, endpoint: str) -> None:
    try:
        async with _client(config, 1, min(config.timeout_s, _CHECK_TIMEOUT_S)) as client:
            served = await client.models()
    except RequestError as error:
        raise ClusterError(_no_teacher_at(endpoint, str(error))) from None
    if config.teacher not in served:
        names = ", ".join(repr(name[:_SHOWN_NAME]) for name in served[:_SHOWN_MODELS]) or "no model"
        more = f" and {len(served) - _SHOWN_MODELS} more" if len(served) > _SHOWN_MODELS else ""
        raise ClusterError(
            f"{endpoint} serves {names}{more}, and no {config.teacher!r}. Name what it serves: --set teach.teacher=NAME"
        )


def _no_teacher_at(endpoint: str, reason: str) -> str:
    if reason in ("status_401", "status_403"):
        told = "refuses the key in" if os.environ.get(API_KEY_VARIABLE) else "wants a key, and there is none in"
        return f"{endpoint} {told} {API_KEY_VARIABLE} ({reason}). Set that variable to the endpoint's key."
    if reason.startswith("status_") or reason == "no_list_of_models":
        return (
            f"{endpoint}/models lists no models ({reason}). The base URL of an OpenAI-compatible endpoint mostly ends "
            "in /v1: --set teach.endpoint=URL"
        )
    return f"Nothing answers at {endpoint} ({reason}). Start what serves the teacher, or: --set teach.endpoint=URL"


def _client(config: TeachConfig, concurrency: int, timeout_s: float) -> Client:
    assert config.endpoint is not None
    api_key = os.environ.get(API_KEY_VARIABLE)
    return Client(config.endpoint, concurrency=concurrency, timeout_s=timeout_s, api_key=api_key)


def chat_body(config: TeachConfig, prompt: str, urls: Iterable[str], seed: int) -> dict[str, Any]:
    """A request of OpenAI's chat completions, as every backend but our own engine is sent it."""
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    body = {
        "model": config.teacher,
        "messages": [{"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}],
        "max_tokens": config.max_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": seed,
        "logprobs": True,
    }
    # OpenAI's own API knows no top_k, and refuses what it does not know.
    return body | ({"top_k": config.top_k} if config.top_k else {})


def completion(answered: Any) -> Completion:
    """A chat completion's JSON as a completion; raises RowError when it is none.

    It comes from elsewhere, so nothing in it is taken for what it should be: an answer that is wrong in one place is
    not trusted in any other.
    """
    try:
        choice, usage = answered["choices"][0], answered["usage"]
        message = choice["message"]
        thoughts = message.get("reasoning_content")
        finish_reason = _matching(_FINISH_REASON, choice["finish_reason"])
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        said = Completion(
            text=_text(message["content"]),
            finish_reason=finish_reason,
            num_prompt_tokens=_count(usage.get("prompt_tokens", 0)),
            num_output_tokens=_count(usage["completion_tokens"]),
            logprobs=[_logprob(token["logprob"]) for token in logprobs],
            thoughts=_text(message.get("reasoning") if thoughts is None else thoughts),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        raise RowError("answer_is_no_chat_completion") from None  # what was wrong may repeat the prompt
    if finish_reason == "error":
        raise RowError("engine_error")
    return said


def _text(value: Any) -> str:
    """A text, or none where there is none; half of a character, which no table can hold, is replaced."""
    if not isinstance(value, str | None):
        raise TypeError
    return (value or "").encode("utf-8", "replace").decode()


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_TOKENS:
        raise ValueError
    return value


def _logprob(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError
    return float(value)
