"""A request's body -> a request that an engine may see, or the refusal: hostile input must cost little here."""

import dataclasses
from http import HTTPStatus
from typing import Any

import pydantic

from infra.errors import nearest
from serve.api import images
from serve.api.errors import Refused
from serve.api.schema import REQUESTS, Request

# Text and base64 have few of these; JSON of many small values, which costs a hundred times its size, has many.
_STRUCTURE = (b"{", b"[", b",")
_MAX_STRUCTURE = 200_000
_SHOWN_CHARACTERS = 40


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request may ask for. max_answer_tokens: of all its answers together. max_images: in all its messages.
    max_image_pixels: of each image. image_domains: hosts of image URLs that the engine may fetch.
    """

    max_answer_tokens: int
    max_images: int
    max_image_pixels: int
    image_domains: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Admitted:
    """A request for an engine as plain JSON, and what it asks for: answers, and tokens over all of them."""

    model: str
    user: str
    streams: bool
    body: dict[str, Any]
    answers: int
    tokens: int


def admit(kind: str, body: bytes, limits: Limits) -> Admitted:
    """The request in a body. kind: `chat` or `completions`. Raises Refused where the schema or a limit is not kept."""
    if sum(map(body.count, _STRUCTURE)) > _MAX_STRUCTURE:
        raise _bad(f"The body has more than {_MAX_STRUCTURE} values.")
    try:
        request = REQUESTS[kind].model_validate_json(body)
    except pydantic.ValidationError as error:
        raise _bad(_reason(error, kind)) from None  # the cause would carry the request into logs
    answers = request.n or 1
    tokens = _answer_tokens(request, answers, limits.max_answer_tokens)
    engine_request = request.engine_request()
    _check_images(engine_request, limits)
    return Admitted(
        model=request.model,
        user=request.user or "",
        streams=bool(request.stream),
        body=engine_request,
        answers=answers,
        tokens=answers * tokens,
    )


def _answer_tokens(request: Request, answers: int, most: int) -> int:
    """Tokens of one answer at most. A request that does not say gets what the engine was started with, `most`."""
    asked = request.answer_tokens
    if asked is None and answers > 1:
        raise _bad(f"n is {answers}: say max_tokens too, of each answer. All of them may have {most} tokens.")
    asked = asked or most
    if asked * answers > most:
        raise _bad(
            f"n x max_tokens is {answers} x {asked} = {answers * asked}; a request may ask for {most} tokens. "
            "The endpoint's owner sets that with --set deploy.max_answer_tokens=N"
        )
    return asked


def _check_images(engine_request: dict[str, Any], limits: Limits) -> None:
    contents = [message["content"] for message in engine_request.get("messages", ())]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    shown = [part["image_url"] for part in parts if part["type"] == "image_url"]
    if len(shown) > limits.max_images:  # an engine refuses it too, but here each image would be looked at before
        raise _bad(f"A request may have {limits.max_images} images; this one has {len(shown)}.")
    for image in shown:
        image["url"] = images.checked_url(image["url"], limits.max_image_pixels, limits.image_domains)


def _reason(error: pydantic.ValidationError, kind: str) -> str:
    """What is wrong, where, without repeating the request, which may hold a patient's image."""
    # Of a union every branch complains; the one that came furthest is the one that was meant.
    complaints = error.errors(include_url=False, include_input=False)
    first = max(complaints, key=lambda one: (len(one["loc"]), one["type"] != "string_type"))
    place = _place(first["loc"])
    match first["type"]:
        case "json_invalid":
            return f"The body is no JSON: {first['msg']}"
        case "model_type":
            said = "a JSON object is expected"
        case "union_tag_invalid":
            said = f"type must be one of {first['ctx']['expected_tags']}"
        case "extra_forbidden":
            return _not_taken(first["loc"], place, kind)
        case _:
            said = first["msg"].removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


def _not_taken(location: tuple[int | str, ...], place: str, kind: str) -> str:
    name = str(location[-1])[:_SHOWN_CHARACTERS]
    if len(location) == 1:
        return f"Field {name!r} is not taken.{nearest(name, REQUESTS[kind].model_fields)}"
    return f"Field {name!r} is not taken in {place.rpartition('.')[0]}."


def _place(location: tuple[int | str, ...]) -> str:
    """`messages.0.content.1.text`, without pydantic's names for the branches of a union."""
    parts: list[str] = []
    for before, part in zip((None, *location), location, strict=False):
        is_branch = (isinstance(before, int) and part in _PART_TYPES) or "[" in str(part) or part == "constrained-str"
        if not is_branch:
            parts.append(str(part)[:_SHOWN_CHARACTERS])
    return ".".join(parts)


_PART_TYPES = ("text", "image_url")


def _bad(message: str) -> Refused:
    return Refused(HTTPStatus.BAD_REQUEST, message)
