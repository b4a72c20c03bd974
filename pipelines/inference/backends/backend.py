"""What answers requests: the protocol that an engine of our own and an endpoint elsewhere both follow."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from PIL import Image

from pipelines.inference.logprobs import TopTokens


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a model wrote, why it stopped (`stop` or `length`), and how many tokens it read and wrote.

    logprobs: of the written tokens, where the backend gives them. top_logprobs: the likeliest tokens at each place,
    where the request asks for them. thoughts: the reasoning, where the backend separates it from the text.
    """

    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    logprobs: Sequence[float] = ()
    top_logprobs: TopTokens | None = None
    thoughts: str = ""


class RowError(Exception):
    """One request failed, and the message is the reason; the backend goes on."""


class EngineDiedError(Exception):
    """The engine's process has ended, and every request that it was working on is lost."""


class ShownImage(Protocol):
    """An image as a request shows it: a sealed one, or one that is made in its place."""

    @property
    def digest(self) -> str:
        """Digest of what is shown."""
        ...

    def read(self) -> bytes:
        """An encoded image. Raises UnreadableImageError."""
        ...

    def decode(self) -> Image.Image:
        """The image as RGB. Raises UnreadableImageError."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A question with its images and its answer, which goes before what is asked."""

    prompt: str
    images: Sequence[ShownImage]
    answer: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What goes before a request: a system message, if any, and answered examples. prefill: the beginning of the
    answer, which the model goes on from; empty for none."""

    system: str = ""
    examples: Sequence[Example] = ()
    prefill: str = ""


NOTHING = Before()


class Backend(Protocol):
    """A model that answers requests.

    num_at_once: how many requests it is given at the same time.
    """

    num_at_once: int

    async def generate(
        self, prompt: str, images: Sequence[ShownImage], seed: int, before: Before = NOTHING
    ) -> Completion:
        """The answer to a prompt about these images. Raises RowError, UnreadableImageError or EngineDiedError."""
        ...

    async def close(self) -> None:
        """Release connections; a later request opens new ones."""
        ...
