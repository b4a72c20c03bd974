"""Question and condition -> what a model is shown: its images, blank ones, none, another question's, or its caption."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from infra.digests import digest_json
from infra.errors import InputError
from pipelines.images import decoding, sealed
from pipelines.images.sealed import SealedImage
from pipelines.inference.client import data_url, image_url
from pipelines.records import Caption, Condition, Question, tables

_KEPT_BLANKS = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Showing:
    """What goes with the questions of an examination.

    folder: the one that image paths are below. donors: question id -> the question whose images are shown in the place
    of its own; captions: question id -> its caption. Both are empty where no condition asks for them.
    """

    folder: Path
    donors: Mapping[str, Question]
    captions: Mapping[str, str]

    def image_urls(self, question: Question, condition: Condition) -> list[str]:
        """The images as data URLs, in their order, read now. Raises InputError when one cannot be read any more."""
        if condition is Condition.ABSENT:
            return []
        shown = self.donors[question.id] if condition is Condition.SHUFFLED else question
        made = _blank_url if condition is Condition.BLANK else image_url
        return [_url(image, made) for image in sealed.of(self.folder, shown)]

    def caption(self, question: Question, condition: Condition) -> str | None:
        """The caption where the condition shows it, and None under every other one."""
        return self.captions[question.id] if condition is Condition.CAPTIONED else None


def prepare(
    questions_artifact: Path, asked: Sequence[Question], conditions: Collection[Condition], seed: int
) -> Showing:
    """What these conditions need, and nothing that they do not. Raises InputError when a question lacks it."""
    return Showing(
        folder=questions_artifact,
        donors=_all_donors(questions_artifact, asked, seed) if Condition.SHUFFLED in conditions else {},
        captions=captions(questions_artifact, asked) if Condition.CAPTIONED in conditions else {},
    )


def donors(asked: Iterable[Question], seed: int) -> dict[str, Question | None]:
    """Question id -> the next question in a seeded order that has no image in common with it; None where there is none.

    Of the same set: other images of the same kind are shown, and no set's number depends on which others are examined
    beside it.
    """
    sets: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        sets.setdefault((question.source, question.file), []).append(question)
    found: dict[str, Question | None] = {}
    for own in sets.values():
        # By digest, so that another question more or less changes the donors of its neighbours alone.
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
            f"Leave the condition `{Condition.CAPTIONED}` out of examine.plan, or bring a source with captions."
        )
    return found


def _all_donors(questions_artifact: Path, asked: Sequence[Question], seed: int) -> dict[str, Question]:
    """A donor for every question: of those that are asked too, or, where a set has too few images, of all its others.

    Raises InputError when one has none.
    """
    found = donors(asked, seed)
    if None in found.values():
        lent = donors(tables.stream(questions_artifact, Question), seed)
        found = {own: donor or lent[own] for own, donor in found.items()}
    for question in asked:
        if found[question.id] is None:
            raise InputError(
                f"Every question of {question.source} {question.file} has an image in common with question "
                f"{question.id}, so it can be shown no other ones. Leave the condition `{Condition.SHUFFLED}` out of "
                "examine.plan."
            )
    return {own: donor for own, donor in found.items() if donor is not None}


def _first_without(others: Iterable[Question], question: Question) -> Question | None:
    own = set(question.image_digests)
    return next((other for other in others if own.isdisjoint(other.image_digests)), None)


def _url(image: SealedImage, made: Callable[[SealedImage], str]) -> str:
    try:
        return made(image)
    except decoding.UnreadableImageError as error:
        raise InputError(f"{image}: {error}. It was readable when the questions were sealed.") from error


def _blank_url(image: SealedImage) -> str:
    blank = decoding.blank(image.decode())
    return _flat_url(blank.size, blank.getpixel((0, 0)))


@functools.lru_cache(maxsize=_KEPT_BLANKS)
def _flat_url(size: tuple[int, int], colour: tuple[int, ...]) -> str:
    """One colour everywhere: as many images come out the same, it is encoded once."""
    return data_url(decoding.png(Image.new("RGB", size, colour)))
