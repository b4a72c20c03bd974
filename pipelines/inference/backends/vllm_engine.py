"""A vLLM engine of our own as a backend. Light: vLLM is imported when an engine starts."""

import asyncio
import os
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipelines.inference.backends.backend import NOTHING, Before, Completion, EngineDiedError, RowError, ShownImage
from pipelines.inference.backends.engine_config import (
    EngineConfig,
    keep_in_one_process,
    needs_own_code,
    own_code_is_refused,
)
from pipelines.inference.backends.engine_process import core_started_early
from pipelines.inference.config import InferenceConfig
from pipelines.inference.logprobs import TopTokens, vocabulary_digest

# Requests that an engine is given for each answer that it writes at a time: answers of the same length end together,
# and it would wait for the next images.
_REQUESTS_AT_ONCE = 2
_NICENESS = 10


class VllmBackend:
    """A vLLM engine in this process, or beside it."""

    def __init__(self, config: InferenceConfig) -> None:
        self.num_at_once = _REQUESTS_AT_ONCE * config.engine.max_num_seqs
        self._sampling = config.sampling
        with core_started_early():
            self._engine = start_vllm(config.model.name, config.engine, config.model.revision)
        self._vocabulary = vocabulary_digest(self._engine.tokenizer.get_vocab()) if config.sampling.top_logprobs else ""
        if not config.engine.gpus:
            _yield_to_the_engine()

    async def generate(
        self, prompt: str, images: Sequence[ShownImage], seed: int, before: Before = NOTHING
    ) -> Completion:
        """See `Backend`."""
        from vllm.exceptions import VLLMClientError, VLLMServerError
        from vllm.v1.engine.exceptions import EngineDeadError

        request: dict[str, Any] = {"prompt": self._rendered(prompt, len(images), before)}
        images = [*(image for example in before.examples for image in example.images), *images]
        if images:
            request["multi_modal_data"] = {"image": [await asyncio.to_thread(image.decode) for image in images]}
            request["multi_modal_uuids"] = {"image": [image.digest for image in images]}  # so that vLLM need not hash
        try:
            return await self._write(request, seed)
        except EngineDeadError as error:
            raise EngineDiedError from error
        # vLLM's words for a request that it cannot take; their text may repeat the request.
        except (VLLMClientError, ValueError) as error:
            raise RowError("prompt_too_long" if "length" in str(error) else "refused_by_engine") from None
        except VLLMServerError:
            raise RowError("engine_error") from None

    async def close(self) -> None:
        """The engine ends with its process."""

    async def _write(self, request: dict[str, Any], seed: int) -> Completion:
        states = self._engine.generate(request, self._parameters(seed), request_id=uuid.uuid4().hex)
        (final,) = [state async for state in states]
        (output,) = final.outputs
        written, told, num = output.token_ids, output.logprobs, self._sampling.top_logprobs
        return Completion(
            text=self._engine.tokenizer.decode(written, skip_special_tokens=True),
            finish_reason=str(output.finish_reason),
            num_prompt_tokens=len(final.prompt_token_ids),
            num_output_tokens=len(written),
            logprobs=told.logprobs[:: 1 + num] if told else (),
            top_logprobs=TopTokens.of(self._vocabulary, written, told.token_ids, told.logprobs, num) if num else None,
        )

    def _parameters(self, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=self._sampling.temperature,
            top_p=self._sampling.top_p,
            top_k=self._sampling.top_k,
            max_tokens=self._sampling.max_tokens,
            seed=seed,
            logprobs=self._sampling.top_logprobs,  # beside that of the token that was written
            flat_logprobs=True,
            # Nobody reads along: made once in the end, the text costs less than made anew with every token.
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _rendered(self, prompt: str, num_images: int, before: Before) -> str:
        messages: list[dict[str, Any]] = []
        if before.system:
            messages.append({"role": "system", "content": before.system})
        for example in before.examples:
            messages.append(_user(example.prompt, len(example.images)))
            messages.append({"role": "assistant", "content": example.answer})
        messages.append(_user(prompt, num_images))
        rendered = str(self._engine.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))
        return rendered + before.prefill


def _user(prompt: str, num_images: int) -> dict[str, Any]:
    return {"role": "user", "content": [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]}


def _yield_to_the_engine() -> None:
    """Let the process that computes on the CPU go before this one, which prepares what it computes next.

    It has been started with the priority of before. Linux has one for each thread, and new ones inherit it.
    """
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICENESS)


def vllm_arguments(model: str, config: EngineConfig, revision: str | None) -> dict[str, Any]:
    """All arguments of an engine, but for the one that forbids a model's own code."""
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
