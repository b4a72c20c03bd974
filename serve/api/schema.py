"""What a request may contain, as pydantic models: they validate requests, and they are the published OpenAPI document.

Every other field is refused. vLLM takes many more (templates, processor settings, names and cache keys of media, other
ways to pass an image), and some of them make the engine fetch an address, read a file, answer one client with another
client's image, or work without bounds.
"""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_BODY_BYTES = 32 << 20
MAX_ANSWERS = 16
MAX_LOGPROBS = 20
MAX_MESSAGES = 64
MAX_PARTS = 64
MAX_TEXT_CHARACTERS = 1 << 20
_LARGEST_SEED = (1 << 63) - 1

Name: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Text: TypeAlias = Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, le=1 << 20)]
Penalty: TypeAlias = Annotated[float, Field(ge=-2, le=2)]


class _Strict(BaseModel):
    """Exact types, finite numbers, no other keys; an error does not repeat the refused value."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True, hide_input_in_errors=True)


class TextPart(_Strict):
    """A piece of text in a message."""

    type: Literal["text"]
    text: Text


class ImageUrl(_Strict):
    """An image as a `data:` URL (PNG, JPEG, WebP or GIF in base64), or an address on a host that the endpoint lists.

    detail: accepted for compatibility and ignored; the model's image processor decides.
    """

    url: Annotated[str, StringConstraints(min_length=1, max_length=MAX_BODY_BYTES)]
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(_Strict):
    """An image in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part: TypeAlias = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text | Annotated[list[Part], Field(min_length=1, max_length=MAX_PARTS)]


class StreamOptions(_Strict):
    """include_usage: the last event of a stream has the numbers of tokens."""

    include_usage: bool | None = None


StopText: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class _Request(_Strict):
    """What both kinds of request have in common: the model, its sampling, and the form of its answer."""

    model: Name
    max_tokens: Tokens | None = None
    min_tokens: Annotated[int, Field(ge=0, le=1 << 20)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 20)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    seed: Annotated[int, Field(ge=-_LARGEST_SEED, le=_LARGEST_SEED)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    ignore_eos: bool | None = None
    user: Name | None = None

    @model_validator(mode="after")
    def _check_stream_options(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options goes with stream = true")
        return self

    def engine_request(self) -> dict[str, Any]:
        """The request as plain JSON for an engine: the validated fields and no others."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def max_answer_tokens(self) -> int | None:
        """Tokens of one answer at most; None where the request sets no limit."""
        return self.max_tokens


class ChatRequest(_Request):
    """`POST /v1/chat/completions`: an answer to messages, with images or without.

    continue_final_message, add_generation_prompt: true and false where the answer goes on from the last message, whose
    role is `assistant`; only where the endpoint's owner allows it.
    """

    messages: Annotated[list[Message], Field(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    continue_final_message: Literal[True] | None = None
    add_generation_prompt: Literal[False] | None = None

    @model_validator(mode="after")
    def _check_prefill(self) -> Self:
        if (self.continue_final_message is None) != (self.add_generation_prompt is None):
            raise ValueError("continue_final_message = true and add_generation_prompt = false go together")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise ValueError("continue_final_message goes with a last message of the assistant")
        return self

    @model_validator(mode="after")
    def _check_top_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs = true")
        return self

    @property
    def max_answer_tokens(self) -> int | None:
        """Tokens of one answer at most; None where the request sets no limit."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(_Request):
    """`POST /v1/completions`: the continuation of a text."""

    prompt: Text
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None


Request: TypeAlias = ChatRequest | CompletionRequest
REQUESTS: dict[str, type[ChatRequest] | type[CompletionRequest]] = {
    "chat": ChatRequest,
    "completions": CompletionRequest,
}
