"""Question, model and sampling -> a request: what is asked, with which images, under which digest."""

import dataclasses
from typing import Any

from infra.digests import digest_json
from pipelines.inference.config import InferenceConfig
from pipelines.records import Condition, Question

_ID_DIGITS = 32
_SEED_DIGITS = 8


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExampleTurn:
    """A question with its answer that goes before a request, as if it had been asked and answered. images: paths below
    the questions artifact, in order."""

    prompt: str
    images: tuple[str, ...]
    image_digests: tuple[str, ...]
    answer: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One thing to ask a model.

    id: digest of all that decides the answer, so that the same request is the same row in every run. condition: what is
    shown. number: of several answers to the same question, from 0. hinted: the prompt holds the gold answer; it is sent
    only when no other request of its question was answered rightly. needs_answer: an attempt that is cut off or names
    no option has failed, and is made again; without it, whatever is written counts. images: paths below the questions
    artifact, in order. system: the system message, if any. examples: what goes before, answered. options: as they are
    shown, where they are not the question's own. prefill: the beginning of the answer, if it is given. entry, rotation,
    variant: of an examination's plan, by how many places the options were moved, and which beginning is given; they
    only label the request.
    """

    id: str
    condition: str
    number: int
    hinted: bool
    needs_answer: bool
    prompt: str
    images: tuple[str, ...]
    image_digests: tuple[str, ...]
    system: str = ""
    examples: tuple[ExampleTurn, ...] = ()
    options: tuple[str, ...] = ()
    entry: str = ""
    rotation: int = 0
    prefill: str = ""
    variant: str = ""

    @property
    def num_images(self) -> int:
        """Of all its turns."""
        return len(self.images) + sum(len(example.images) for example in self.examples)

    def seed(self, attempt: int) -> int:
        """The seed of an attempt, from 0: it depends on what is asked, never on its place in a run."""
        return int(digest_json([self.id, attempt])[:_SEED_DIGITS], 16)


def request(
    config: InferenceConfig,
    shown: Question,
    prompt: str,
    condition: Condition,
    number: int = 0,
    *,
    hinted: bool = False,
    needs_answer: bool = False,
    system: str = "",
    examples: tuple[ExampleTurn, ...] = (),
    prefill: str = "",
    **labels: Any,
) -> Request:
    """The request for a model's answer to a prompt. shown: the question whose images go with it. labels: the fields of
    a request that do not decide its answer."""
    images, digests = (shown.images, shown.image_digests) if condition.shows_images else ((), ())
    identity = {
        "images": digests,
        "prompt": prompt,
        # Another question's images with these words may be a question too, which is then a request of its own.
        "condition": condition,
        "number": number,
        "needs_answer": needs_answer,  # by which an attempt is judged, and perhaps made again
        "model": config.model.identity(),
        "sampling": config.sampling.identity(),
    }
    if system:  # named only where there is one, so that all other requests stay those that ledgers know
        identity["system"] = system
    if examples:
        identity["examples"] = [[each.prompt, each.image_digests, each.answer] for each in examples]
    if prefill:
        identity["prefill"] = prefill
    return Request(
        id=digest_json(identity)[:_ID_DIGITS],
        condition=condition,
        number=number,
        hinted=hinted,
        needs_answer=needs_answer,
        prompt=prompt,
        images=images,
        image_digests=digests,
        system=system,
        examples=examples,
        prefill=prefill,
        **labels,
    )


def prompt_digest(prompt: str) -> str:
    """Digest of a prompt's words."""
    return digest_json(prompt)
