"""A request's body -> a request that an engine may get, or a refusal. Hostile input must cost little here."""

import dataclasses
from http import HTTPStatus
from typing import Any

import pydantic

from infra.errors import nearest
from serve.api import images
from serve.api.errors import Refused
from serve.api.schema import REQUESTS, ChatRequest, Request

# JSON of many small values takes a hundred times its size in memory. Text and base64 contain few of these characters.
_SEPARATORS = (b"{", b"[", b",")
_MAX_SEPARATORS = 200_000
_MAX_QUOTED_CHARACTERS = 40
_PART_TYPES = ("text", "image_url")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for.

    max_answer_tokens: of all its answers together. max_images: in all its messages. max_image_pixels: of each image.
    image_domains: hosts whose image URLs the engine may fetch. prefill: whether an answer may be begun by the request.
    """

    max_answer_tokens: int
    max_images: int
    max_image_pixels: int
    image_domains: tuple[str, ...] = ()
    prefill: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdmittedRequest:
    """A validated request. body: for an engine, as plain JSON. num_tokens: of all num_answers answers, at most."""

    model: str
    user: str
    streams: bool
    body: dict[str, Any]
    num_answers: int
    num_tokens: int


def admit(kind: str, body: bytes, limits: Limits) -> AdmittedRequest:
    """The request in a body. kind: `chat` or `completions`. Raises Refused when it breaks the schema or a limit."""
    if sum(map(body.count, _SEPARATORS)) > _MAX_SEPARATORS:
        raise _bad(f"The body has more than {_MAX_SEPARATORS} values.")
    try:
        request = REQUESTS[kind].model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _bad(_reason(error, kind)) from None  # the cause would carry the request into logs
    if isinstance(request, ChatRequest) and request.continue_final_message and not limits.prefill:
        raise _bad(
            "Field 'continue_final_message' is not taken here. The endpoint's owner allows it, for requests with the "
            "key, with --set deploy.prefill=true"
        )
    num_answers = request.n or 1
    tokens_per_answer = _tokens_per_answer(request, num_answers, limits.max_answer_tokens)
    engine_request = request.engine_request()
    _check_images(engine_request, limits)
    return AdmittedRequest(
        model=request.model,
        user=request.user or "",
        streams=bool(request.stream),
        body=engine_request,
        num_answers=num_answers,
        num_tokens=num_answers * tokens_per_answer,
    )


def _tokens_per_answer(request: Request, num_answers: int, limit: int) -> int:
    """Tokens of one answer at most. limit: of all answers; the engine uses it for a request that sets none."""
    if request.max_answer_tokens is None and num_answers > 1:
        raise _bad(f"n is {num_answers}: set max_tokens too, of each answer. All of them may have {limit} tokens.")
    per_answer = request.max_answer_tokens or limit
    if per_answer * num_answers > limit:
        raise _bad(
            f"n x max_tokens is {num_answers} x {per_answer} = {num_answers * per_answer}; a request may ask for "
            f"{limit} tokens. The endpoint's owner sets that with --set deploy.max_answer_tokens=N"
        )
    return per_answer


def _check_images(engine_request: dict[str, Any], limits: Limits) -> None:
    contents = [message["content"] for message in engine_request.get("messages", ())]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    image_urls = [part["image_url"] for part in parts if part["type"] == "image_url"]
    if len(image_urls) > limits.max_images:  # an engine refuses it too, but only after each image was checked here
        raise _bad(f"A request may have {limits.max_images} images; this one has {len(image_urls)}.")
    for image in image_urls:
        image["url"] = images.checked_url(image["url"], limits.max_image_pixels, limits.image_domains)


def _reason(error: pydantic.ValidationError, kind: str) -> str:
    """What is wrong and where, without repeating the request, which may contain a patient's image."""
    # Every branch of a union reports an error; the one with the longest path is the branch that was meant.
    reported = error.errors(include_url=False, include_input=False)
    first = max(reported, key=lambda one: (len(one["loc"]), one["type"] != "string_type"))
    place = _place(first["loc"])
    match first["type"]:
        case "json_invalid":
            return f"The body is no JSON: {first['msg']}"
        case "model_type":
            reason = "a JSON object is expected"
        case "union_tag_invalid":
            reason = f"type must be one of {first['ctx']['expected_tags']}"
        case "extra_forbidden":
            return _unknown_field(first["loc"], place, kind)
        case _:
            reason = first["msg"].removeprefix("Value error, ")
    return f"{place}: {reason}" if place else reason


def _unknown_field(location: tuple[int | str, ...], place: str, kind: str) -> str:
    name = str(location[-1])[:_MAX_QUOTED_CHARACTERS]
    if len(location) == 1:
        return f"Field {name!r} is not taken.{nearest(name, REQUESTS[kind].model_fields)}"
    return f"Field {name!r} is not taken in {place.rpartition('.')[0]}."


def _place(location: tuple[int | str, ...]) -> str:
    """`messages.0.content.1.text`, without pydantic's names for the branches of a union."""
    parts: list[str] = []
    for before, part in zip((None, *location), location, strict=False):
        is_branch = (isinstance(before, int) and part in _PART_TYPES) or "[" in str(part) or part == "constrained-str"
        if not is_branch:
            parts.append(str(part)[:_MAX_QUOTED_CHARACTERS])
    return ".".join(parts)


def _bad(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message)
