"""OpenAI's chat completions: the one body that is sent, and the one strict parser of what comes back."""

import base64
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pipelines.images import decoding
from pipelines.inference.backends.backend import NOTHING, Before, Completion, RowError, ShownImage
from pipelines.inference.config import Sampling

_FINISH_REASON = re.compile(r"[a-z_]{1,32}")
_MOST_TOKENS = 1 << 40
_READ_EVERYWHERE = {"png": b"\x89PNG\r\n\x1a\n", "jpeg": b"\xff\xd8\xff"}  # by every model server that takes images


def body(
    model: str, prompt: str, image_urls: Iterable[str], sampling: Sampling, seed: int, before: Before = NOTHING
) -> dict[str, Any]:
    """A request about images, in their order, and then a prompt; after a system message and answered examples."""
    request: dict[str, Any] = {
        "model": model,
        "messages": [*_messages_before(before), _user(prompt, image_urls)],
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": seed,
    }
    if before.prefill:  # as vLLM and its like have it: the last message is open, and no new one is begun
        request["messages"].append({"role": "assistant", "content": before.prefill})
        request |= {"continue_final_message": True, "add_generation_prompt": False}
    if sampling.logprobs:
        request["logprobs"] = True
    if sampling.top_k:  # OpenAI's own API knows no top_k, and refuses unknown fields
        request["top_k"] = sampling.top_k
    return request


def _user(prompt: str, image_urls: Iterable[str]) -> dict[str, Any]:
    shown = [{"type": "image_url", "image_url": {"url": url}} for url in image_urls]
    return {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]}


def _messages_before(before: Before) -> Iterator[dict[str, Any]]:
    if before.system:
        yield {"role": "system", "content": before.system}
    for example in before.examples:
        yield _user(example.prompt, map(image_url, example.images))
        yield {"role": "assistant", "content": example.answer}


def image_url(image: ShownImage) -> str:
    """A data URL of the image's own bytes; as PNG where not every endpoint reads their format.

    Raises UnreadableImageError.
    """
    data = image.read()
    for kind, beginning in _READ_EVERYWHERE.items():
        if data.startswith(beginning):
            return data_url(data, kind)
    return data_url(decoding.png(decoding.decode(data)))


def data_url(image: bytes, kind: str = "png") -> str:
    """Image bytes as a URL that carries them, so that an endpoint fetches nothing."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


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
        completion = Completion(
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
    return completion


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
