"""A request's body -> a request that an engine may see, or the refusal: hostile input must cost little here."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from infra.errors import nearest
from serve.refusals import Refused

MAX_BODY_BYTES = 32 << 20
MAX_ANSWERS = 16
# What else vLLM would take from a request (templates, processor settings, cache controls, grammars) can cost unbounded
# time or memory, or changes what is measured.
# fmt: off
FIELDS = frozenset({
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k",
    "min_p", "n", "seed", "stop", "stream", "stream_options", "logprobs", "top_logprobs", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "ignore_eos", "user",
})
# fmt: on
PARTS = frozenset({"text", "image_url"})


def admit(body: bytes, image_domains: tuple[str, ...]) -> dict[str, Any]:
    """The request in a body. Raises Refused when it is none, sets a field that the endpoint does not take, or names an
    image that would have to be fetched from a host that is not listed.
    """
    try:
        request = dict(json.loads(body))
    except (ValueError, TypeError, RecursionError) as error:
        raise _bad("The body is no JSON object.") from error
    if strangers := sorted(set(request) - FIELDS):
        raise _bad(f"Field {strangers[0]!r} is not taken.{nearest(strangers[0], FIELDS)}")
    answers = request.get("n")
    if answers is not None and not (isinstance(answers, int) and 1 <= answers <= MAX_ANSWERS):
        raise _bad(f"n must be a whole number from 1 to {MAX_ANSWERS}.")
    for part in _parts(request.get("messages")):
        _check_part(part, image_domains)
    return request


def _parts(messages: Any) -> list[dict[str, Any]]:
    """The parts of all messages; what has another form is the engine's to refuse."""
    contents = [message.get("content") for message in _list(messages) if isinstance(message, dict)]
    return [part for content in contents for part in _list(content) if isinstance(part, dict)]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _check_part(part: dict[str, Any], image_domains: tuple[str, ...]) -> None:
    kind = part.get("type")
    if kind not in PARTS:
        raise _bad(f"A part of type {str(kind)[:40]!r} is not taken.{nearest(str(kind), PARTS)}")
    if kind == "image_url":
        image = part.get("image_url")
        _check_url(image.get("url") if isinstance(image, dict) else image, image_domains)


def _check_url(url: Any, image_domains: tuple[str, ...]) -> None:
    if isinstance(url, str) and url[:5].lower() == "data:":
        return
    try:
        address = urlsplit(url if isinstance(url, str) else "")
        host = address.hostname or ""
    except ValueError as error:
        raise _bad("An image's URL cannot be read.") from error
    if address.scheme not in ("http", "https") or host not in image_domains:
        allowed = f" or from {', '.join(image_domains)}" if image_domains else ""
        raise _bad(
            f"Images come as data: URLs{allowed}; nothing is fetched from {host[:80] or 'elsewhere'!r}. "
            "The endpoint's owner lists further hosts with --set 'deploy.image_domains=[\"HOST\"]'"
        )


def _bad(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message)
