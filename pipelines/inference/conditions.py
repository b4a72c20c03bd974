"""Question and condition -> what a model is shown: images or what stands in their place, its options, its caption.

The sealed bytes of an image are shown untouched wherever it is not the image itself that a condition changes.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from infra.digests import digest_json
from infra.errors import InputError
from pipelines.images import decoding, sealed
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.backend import NOTHING, Before, Example, ShownImage
from pipelines.inference.requests import Request
from pipelines.records import LETTERS, Caption, Condition, Question, tables
from pipelines.records.option_references import refer_to_others

_KEPT_FLAT_IMAGES = 1024
_TILES = 4  # of a side, as far as it has so many pixels
NONE_OF_THE_ABOVE = "None of the above"
# Words that are not true of an image and its mirror image alike.
_NAMES_A_SIDE = re.compile(
    r"\b(?:left|right|(?:left|right)(?:most|wards?|-sided|-handed)|dextro(?:cardia|scoliosis|position|rotat\w*)"
    r"|levo(?:cardia|scoliosis|position|rotat\w*)|clockwise|(?:counter|anti)-?clockwise|handedness|east|west"
    r"|mirror(?:ed|[- ]image)|flipped)\b",
    re.IGNORECASE,
)
_RIGHT_BUT_NO_SIDE = re.compile(r"\bright (?:answer|option|choice|statement|one|order|angles?)\b", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class ChangedImage:
    """What a condition shows in the place of a sealed image, in its size; made when it is read, the same every time."""

    original: SealedImage
    condition: Condition

    @property
    def digest(self) -> str:
        """Of the original, and how it was changed."""
        return f"{self.original.digest}-{self.condition}"

    def read(self) -> bytes:
        """The changed image as PNG, which loses nothing. Raises UnreadableImageError where the original cannot be
        read."""
        image = self.decode()
        if self.condition in _FLAT:
            return _flat_png(image.size, image.getpixel((0, 0)))
        return decoding.png(image)

    def decode(self) -> Image.Image:
        """The changed image as RGB. Raises UnreadableImageError."""
        return _CHANGES[self.condition](self.original.decode(), self.original.digest)


def patch_shuffled(image: Image.Image, seed: str) -> Image.Image:
    """The image cut into 4 x 4 tiles of which none keeps its place: colours and textures stay, what they form goes.

    The tiles trade places in one cycle, in an order that follows from the seed. Up to three pixels at the right and the
    lower border, where the sides do not divide, stay.
    """
    columns, rows = min(_TILES, image.width), min(_TILES, image.height)
    width, height = image.width // columns, image.height // rows
    corners = [(width * column, height * row) for row in range(rows) for column in range(columns)]
    order = sorted(corners, key=lambda corner: digest_json([seed, *corner]))
    made = image.copy()
    for source, place in zip(order, [*order[1:], order[0]], strict=True):
        made.paste(image.crop((*source, source[0] + width, source[1] + height)), place)
    return made


_FLAT = (Condition.BLANK, Condition.BLACK)
_CHANGES: Mapping[Condition, Callable[[Image.Image, str], Image.Image]] = {
    Condition.BLANK: lambda image, _: decoding.blank(image),
    Condition.BLACK: lambda image, _: Image.new("RGB", image.size),
    Condition.PATCH_SHUFFLED: patch_shuffled,
    Condition.MIRRORED: lambda image, _: ImageOps.mirror(image),
}
CHANGING = frozenset(_CHANGES)  # conditions that change the image itself


def shown_images(folder: Path, request: Request) -> tuple[ShownImage, ...]:
    """The images that go with a request, in their order; they are read when they are sent. folder: that of the
    questions artifact."""
    images, condition = sealed.of(folder, request), Condition(request.condition)
    return tuple(ChangedImage(image, condition) for image in images) if condition in _CHANGES else images


def before(folder: Path, request: Request) -> Before:
    """What goes before a request; examples show their own images, whatever the condition."""
    examples = [
        Example(prompt=each.prompt, images=sealed.of(folder, each), answer=each.answer) for each in request.examples
    ]
    if not (request.system or examples or request.prefill):
        return NOTHING
    return Before(system=request.system, examples=examples, prefill=request.prefill)


@functools.lru_cache(maxsize=_KEPT_FLAT_IMAGES)
def _flat_png(size: tuple[int, int], colour: tuple[int, ...]) -> bytes:
    """Many images of one colour are alike, so each kind is encoded once."""
    return decoding.png(Image.new("RGB", size, colour))


def as_asked(question: Question, condition: Condition, rotation: int = 0) -> Question:
    """The question with the options and the gold letter as they are shown.

    rotation: places that the options move up, the first ones to the end.
    """
    options, gold = list(question.options), LETTERS.index(question.gold)
    if condition is Condition.GOLD_HIDDEN:
        options[gold] = NONE_OF_THE_ABOVE
    if options == list(question.options) and not rotation:
        return question
    place = LETTERS[(gold - rotation) % len(options)]
    return dataclasses.replace(question, options=(*options[rotation:], *options[:rotation]), gold=place)


def why_not_asked(question: Question, condition: Condition, found: "Substitutes") -> str | None:
    """Why a question makes no sense under a condition, in a word; None where it does.

    Mirrored, a question that names a side has another answer, or none. With the right option hidden, options that refer
    to others ("Both A and B", "None of the above" itself) would be right or wrong for another reason. A task all of
    whose questions show the same image has no other one to show.
    """
    if condition is Condition.MIRRORED and names_a_side(question):
        return "names_a_side"
    if condition is Condition.GOLD_HIDDEN and refer_to_others(question.options):
        return "options_refer_to_others"
    if condition is Condition.SHUFFLED_IN_TASK and found.in_task[question.id] is None:
        return "no_other_image_in_its_task"
    return None


def names_a_side(question: Question) -> bool:
    """Whether the text or an option speaks of left, right, or a sense of rotation. Letters and writing inside an image
    are not looked at: they are mirrored with it."""
    return any(_NAMES_A_SIDE.search(_RIGHT_BUT_NO_SIDE.sub("", text)) for text in (question.text, *question.options))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Substitutes:
    """What an examination shows in the place of a question's own images, or beside them.

    shuffled_from: question id -> the question whose images are shown; in_task: the same of its task, None where no
    question of it has another image. captions: question id -> caption. Each is empty where no condition needs it.
    """

    shuffled_from: Mapping[str, Question]
    captions: Mapping[str, str]
    in_task: Mapping[str, Question | None] = dataclasses.field(default_factory=dict)


def substitutes(
    questions_artifact: Path, asked: Iterable[Question], conditions: Collection[Condition], seed: int
) -> Substitutes:
    """What these conditions need, and nothing else: most need none of the questions. Raises InputError when a question
    lacks it."""
    in_task, shuffled = Condition.SHUFFLED_IN_TASK in conditions, Condition.SHUFFLED in conditions
    captioned = [condition for condition in conditions if condition.tells_caption]
    held = list(asked) if in_task or shuffled or captioned else []
    return Substitutes(
        shuffled_from=_all_shuffled(questions_artifact, held, seed) if shuffled else {},
        captions=captions(questions_artifact, held, captioned) if captioned else {},
        in_task=shuffled_from(held, seed, in_task=True) if in_task else {},
    )


def shuffled_from(asked: Iterable[Question], seed: int, *, in_task: bool = False) -> dict[str, Question | None]:
    """Question id -> the next question in a seeded order that has no image in common with it; None where there is none.

    Of the same set: other images of the same kind are shown, and no set's number depends on which others are examined
    beside it. in_task: also of the same task, which is the source's own topic, or else the stratum.
    """
    sets: dict[tuple[str, ...], list[Question]] = {}
    for question in asked:
        task = (question.topic or question.stratum,) if in_task else ()
        sets.setdefault((question.source, question.file, *task), []).append(question)
    found: dict[str, Question | None] = {}
    for own in sets.values():
        # By digest, so that one question more or less changes only what its neighbours are shown.
        order = sorted(own, key=lambda question: digest_json([seed, question.id]))
        for place, question in enumerate(order):
            others = (order[(place + step) % len(order)] for step in range(1, len(order)))
            found[question.id] = _first_without(others, question)
    return found


def captions(questions_artifact: Path, asked: Sequence[Question], conditions: Sequence[Condition]) -> dict[str, str]:
    """Question id -> caption; raises InputError unless every question has one. conditions: those that need them."""
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
            f"Leave the condition `{'` and `'.join(conditions)}` out of examination.plan, or bring a source with "
            "captions."
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
