"""Question and condition -> what a model is shown: its images, blank ones, none, another question's, or its caption."""

import dataclasses
import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from infra.digests import digest_json
from infra.errors import InputError
from pipelines.images import decoding, sealed
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.backend import ShownImage
from pipelines.inference.requests import Request
from pipelines.records import Caption, Condition, Question, tables

_KEPT_BLANKS = 1024


@dataclasses.dataclass(frozen=True, slots=True)
class BlankImage:
    """One colour everywhere, in the size of a sealed image."""

    original: SealedImage

    @property
    def digest(self) -> str:
        """Of the original, and that it is blank."""
        return f"{self.original.digest}-blank"

    def read(self) -> bytes:
        """The blank image as PNG. Raises UnreadableImageError where the original cannot be read."""
        blank = self.decode()
        return _flat_png(blank.size, blank.getpixel((0, 0)))

    def decode(self) -> Image.Image:
        """The blank image as RGB. Raises UnreadableImageError."""
        return decoding.blank(self.original.decode())


def shown_images(folder: Path, request: Request) -> tuple[ShownImage, ...]:
    """The images that go with a request, in their order; they are read when they are sent. folder: that of the
    questions artifact."""
    images = sealed.of(folder, request)
    return tuple(map(BlankImage, images)) if request.condition == Condition.BLANK else images


@functools.lru_cache(maxsize=_KEPT_BLANKS)
def _flat_png(size: tuple[int, int], colour: tuple[int, ...]) -> bytes:
    """Many blank images are alike, so each kind is encoded once."""
    return decoding.png(Image.new("RGB", size, colour))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Substitutes:
    """What an examination shows in the place of a question's own images, or beside them.

    shuffled_from: question id -> the question whose images are shown. captions: question id -> caption. Both are empty
    where no condition needs them.
    """

    shuffled_from: Mapping[str, Question]
    captions: Mapping[str, str]


def substitutes(
    questions_artifact: Path, asked: Iterable[Question], conditions: Collection[Condition], seed: int
) -> Substitutes:
    """What these conditions need, and nothing else: most need none of the questions. Raises InputError when a question
    lacks it."""
    held = list(asked) if {Condition.SHUFFLED, Condition.CAPTIONED} & set(conditions) else []
    return Substitutes(
        shuffled_from=_all_shuffled(questions_artifact, held, seed) if Condition.SHUFFLED in conditions else {},
        captions=captions(questions_artifact, held) if Condition.CAPTIONED in conditions else {},
    )


def shuffled_from(asked: Iterable[Question], seed: int) -> dict[str, Question | None]:
    """Question id -> the next question in a seeded order that has no image in common with it; None where there is none.

    Of the same set: other images of the same kind are shown, and no set's number depends on which others are examined
    beside it.
    """
    sets: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        sets.setdefault((question.source, question.file), []).append(question)
    found: dict[str, Question | None] = {}
    for own in sets.values():
        # By digest, so that one question more or less changes only what its neighbours are shown.
        order = sorted(own, key=lambda question: digest_json([seed, question.id]))
        for place, question in enumerate(order):
            others = (order[(place + step) % len(order)] for step in range(1, len(order)))
            found[question.id] = _first_without(others, question)
    return found


def captions(questions_artifact: Path, asked: Sequence[Question]) -> dict[str, str]:
    """Question id -> caption; raises InputError unless every question has one."""
    try:
        table = tables.read(questions_artifact, Caption)
    except FileNotFoundError:
        table = []
    wanted = {question.id for question in asked}
    found = {caption.question_id: caption.text for caption in table if caption.question_id in wanted}
    num_captioned = sum(bool(text.strip()) for text in found.values())
    if num_captioned < len(wanted):
        raise InputError(
            f"{num_captioned} of {len(wanted)} test questions have a caption, so not all can be asked with theirs. "
            f"Leave the condition `{Condition.CAPTIONED}` out of examination.plan, or bring a source with captions."
        )
    return found


def _all_shuffled(questions_artifact: Path, asked: Sequence[Question], seed: int) -> dict[str, Question]:
    """Another question for each: of those that are asked too, or, where a set has too few images, of all its others.

    Raises InputError when one has none.
    """
    found = shuffled_from(asked, seed)
    if None in found.values():
        lent = shuffled_from(tables.stream(questions_artifact, Question), seed)
        found = {own: other or lent[own] for own, other in found.items()}
    for question in asked:
        if found[question.id] is None:
            raise InputError(
                f"Every question of {question.source} {question.file} has an image in common with question "
                f"{question.id}, so it can be shown no other ones. Leave the condition `{Condition.SHUFFLED}` out of "
                "examination.plan."
            )
    return {own: other for own, other in found.items() if other is not None}


def _first_without(others: Iterable[Question], question: Question) -> Question | None:
    own = set(question.image_digests)
    return next((other for other in others if own.isdisjoint(other.image_digests)), None)
