"""The nouns of the flow: one frozen record for each node, and the Arrow schema that its Parquet table has.

Question --teach--> Rationale --verify--> Verdict --compose--> TrainingExample; a served model's answer is a Prediction.
"""

import dataclasses
import string
import types
import typing
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

import pyarrow as pa

LETTERS = string.ascii_uppercase


class Split(StrEnum):
    """What a question may be used for."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Arm(StrEnum):
    """What a model was taught, and hence what it is asked to write."""

    ZERO_SHOT = "zero_shot"
    ANSWER_ONLY = "answer_only"
    RATIONALE_THEN_ANSWER = "rationale_then_answer"
    TEACHER = "teacher"


class Condition(StrEnum):
    """What goes with a question when it is asked: its image, none of what it shows, another's, or its caption too."""

    REAL = "real"
    BLANK = "blank"
    SHUFFLED = "shuffled"
    CAPTIONED = "captioned"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A row of a sealed table. Fields are text, numbers, booleans, or tuples of text. stem: name of the table's
    file."""

    stem: ClassVar[str]
    _schemas: ClassVar[dict[type, pa.Schema]] = {}
    _fields: ClassVar[dict[type, tuple[str, ...]]] = {}

    @classmethod
    def schema(cls) -> pa.Schema:
        """The Arrow schema of a table of this record, in field order."""
        if cls not in Record._schemas:
            hints = typing.get_type_hints(cls)
            Record._schemas[cls] = pa.schema([_arrow_field(f.name, hints[f.name]) for f in dataclasses.fields(cls)])
        return Record._schemas[cls]

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        """The fields, in order; kept, since every row asks for them."""
        if cls not in Record._fields:
            Record._fields[cls] = tuple(field.name for field in dataclasses.fields(cls))
        return Record._fields[cls]

    @classmethod
    def table(cls, records: Iterable[typing.Self]) -> pa.Table:
        """An Arrow table of these records, columns in field order."""
        records = list(records)
        columns = {name: [getattr(record, name) for record in records] for name in cls._names()}
        return pa.Table.from_pydict(columns, schema=cls.schema())

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> typing.Self:
        """The record that a table's row holds; raises KeyError when a column is missing."""
        values = {name: row[name] for name in cls._names()}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})

    def as_dict(self) -> dict[str, Any]:
        """The row of this record: plain Python values, tuples as lists."""
        values = {name: getattr(self, name) for name in self._names()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Question(Record):
    """A multiple-choice question about one or more images.

    id: digest of all that the question is (source, images, text, options as the source has them). file, row: the table
    that it was read from, and its number there. stratum: what the report keeps apart; empty when nothing is. topic: the
    source's own name of the task. images: paths below the artifact's folder. image_digests: SHA-256 of each stored
    image. options: in letter order. gold: the right option's letter. figure, article: what the images were cut from, to
    group by; empty when unknown. evaluation_only: the source may examine models and never teach one.
    """

    stem: ClassVar[str] = "questions"

    id: str
    source: str
    file: str = ""
    row: int = 0
    split: str
    stratum: str = ""
    topic: str = ""
    images: tuple[str, ...]
    image_digests: tuple[str, ...]
    text: str
    options: tuple[str, ...]
    gold: str
    figure: str = ""
    article: str = ""
    evaluation_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage(Record):
    """An image of the questions as it passed the door: decoded whole, upright, 8 bits a channel, within the budget.

    path: below the artifact's folder. name: as the source calls it. crop: `left,top,right,bottom` in the source's
    pixels; empty for all of it. source_digest, digest: SHA-256 of the source's bytes and of the stored ones.
    pixel_digest: SHA-256 of the stored pixels, whatever the format. perceptual_hash: 64 bits in hexadecimal; empty
    where nothing can be told apart. changes: what the door changed, in order; none where the source's own bytes are
    stored.
    """

    stem: ClassVar[str] = "images"

    path: str
    name: str
    crop: str
    source_digest: str
    digest: str
    pixel_digest: str
    perceptual_hash: str
    width: int
    height: int
    changes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Caption(Record):
    """What a source's caption says about a question's images; in a table of its own, since no model is shown it unless
    a condition says so."""

    stem: ClassVar[str] = "captions"

    question_id: str
    text: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SetAside(Record):
    """A row that gave no question. fate: rejected for what it says, or quarantined for an image that cannot be used."""

    stem: ClassVar[str] = "set_aside"

    source: str
    file: str
    row: int
    fate: str
    reason: str
    image: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rationale(Record):
    """What the teacher wrote about a question. A row that failed has its error and no text."""

    stem: ClassVar[str] = "rationales"

    question_id: str
    text: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    seed: int
    error: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """Whether a rationale may teach. reason: `accepted`, or why not. letter: the answer read from it, if any.

    text: all that the teacher wrote. body: the reasoning alone, without the final answer's line.
    """

    stem: ClassVar[str] = "verdicts"

    question_id: str
    accepted: bool
    reason: str
    letter: str | None
    text: str
    body: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample(Record):
    """One question as one arm learns it: the prompt is not trained on, the target is, to the last token."""

    stem: ClassVar[str] = "examples"

    question_id: str
    arm: str
    images: tuple[str, ...]
    image_digests: tuple[str, ...]
    prompt: str
    target: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """What a served model answered under a condition. letter is None when no answer could be read (unscored)."""

    stem: ClassVar[str] = "predictions"

    question_id: str
    source: str
    file: str
    model: str
    arm: str
    condition: str
    stratum: str
    gold: str
    text: str
    letter: str | None
    finish_reason: str
    num_output_tokens: int
    error: str | None


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    tuple[str, ...]: pa.list_(pa.string()),
}


def _arrow_field(name: str, hint: Any) -> pa.Field:
    nullable = isinstance(hint, types.UnionType)
    if nullable:
        (hint,) = [part for part in typing.get_args(hint) if part is not types.NoneType]
    return pa.field(name, _ARROW_TYPES[hint], nullable=nullable)
