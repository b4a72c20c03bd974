"""The nouns of the flow: one frozen record for each node, and the Arrow schema that its Parquet table has.

Question --teach--> Rationale --verify--> Verdict --compose--> TrainingExample; a served model's answer is a Prediction.
"""

import dataclasses
import string
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import ClassVar

from pipelines.records.record import Record

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
    ANSWER_THEN_RATIONALE = "answer_then_rationale"
    MULTI_TASK = "multi_task"
    TEACHER = "teacher"


TAUGHT = tuple(arm for arm in Arm if arm not in (Arm.ZERO_SHOT, Arm.TEACHER))  # those that adapters are fitted for
ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)  # those that are taught where a recipe names no others
IMAGES = ("images",)  # folders of the questions artifact whose bytes are checked one by one, when they are read


def adapter_of(arm: str, seed: int = 0) -> str:
    """Name of the artifact with an arm's adapter. seed: number of the seed that it was fitted with, from 0."""
    return f"adapters/{arm}-seed{seed}" if seed else f"adapters/{arm}"


def adapters_of(arms: Iterable[str], seeds: int) -> tuple[str, ...]:
    """Names of the artifacts with all adapters of these arms. seeds: how many each arm has."""
    return tuple(adapter_of(arm, seed) for seed in range(seeds) for arm in arms)


def check_arms(arms: tuple[Arm, ...]) -> None:
    """Raises ValueError unless at least one arm is named, each once, and none but those that adapters are fitted
    for."""
    if not arms or not set(arms) <= set(TAUGHT):
        raise ValueError(f"name at least one arm of {', '.join(TAUGHT)}, and no other")
    check_each_once(arms)


def check_each_once(names: Sequence[str]) -> None:
    """Raises ValueError for what stands there twice: its answers would count twice."""
    if twice := {str(name) for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is named twice: name it once")


class Status(StrEnum):
    """What becomes of a row. Every row has exactly one of them, with a reason for all but the first two."""

    ANSWERED = "answered"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    FAILED = "failed"


class Condition(StrEnum):
    """What goes with a question when it is asked.

    Its own images (real), without them (absent), in their place one colour (blank: their mean grey; black), another
    question's (shuffled, or shuffled_in_task: of one with the same task), their tiles in another order (patch_shuffled)
    or their mirror images (mirrored). captioned: the caption too; caption_only: the caption in the images' place.
    gold_hidden: "None of the above" stands in the right option's place, and is the right one then.
    """

    REAL = "real"
    BLANK = "blank"
    ABSENT = "absent"
    SHUFFLED = "shuffled"
    CAPTIONED = "captioned"
    BLACK = "black"
    SHUFFLED_IN_TASK = "shuffled_in_task"
    PATCH_SHUFFLED = "patch_shuffled"
    MIRRORED = "mirrored"
    CAPTION_ONLY = "caption_only"
    GOLD_HIDDEN = "gold_hidden"

    @property
    def shows_images(self) -> bool:
        """Whether any image goes with the question."""
        return self not in (Condition.ABSENT, Condition.CAPTION_ONLY)

    @property
    def tells_caption(self) -> bool:
        """Whether the caption goes with the question."""
        return self in (Condition.CAPTIONED, Condition.CAPTION_ONLY)


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
    """An image of the questions as the image sandbox decoded it: upright, 8 bits a channel, at most `max_pixels`.

    path: below the artifact's folder. name: as the source calls it. crop: `left,top,right,bottom` in the source's
    pixels; empty for all of it. source_digest, digest: SHA-256 of the source's bytes and of the stored ones.
    pixel_digest: SHA-256 of the pixels before they were encoded, whatever the format. perceptual_hash: see
    `images.perceptual_hash`; empty for a flat image. changes: what was changed, in order; empty where the source's own
    coded pixels are stored.
    """

    stem: ClassVar[str] = "images"

    path: str
    name: str
    crop: str
    source_digest: str
    digest: str
    pixel_digest: str
    perceptual_hash: bytes
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
    """A row that gave no question. status: rejected for what the row says, or quarantined for an image that cannot be
    used. image: the unusable one, or the row's first; empty when there is none."""

    stem: ClassVar[str] = "set_aside"

    source: str
    file: str
    row: int
    status: str
    reason: str
    image: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rationale(Record):
    """What the teacher wrote about a question, or why it did not.

    id: digest of the request (images, prompt, teacher, sampling, number), 32 hexadecimal digits. condition: `real`, or
    what was shown in the place of the question's images, to find out whether they are needed. number: which of its
    question's rationales under this condition, from 0. hinted: the prompt held the gold answer. status: answered,
    failed or quarantined (for an image). text: what was written, without the thoughts of a teacher that writes them
    down before (`thoughts`), and without tokens that stand for images, which are counted (num_stray_tokens).
    mean_logprob, min_logprob: of the tokens that were written, where the engine says so. attempts: how often it was
    asked; seed: of the last time. prompt_digest, sampling_digest: of the words and of the settings; teacher_digest: of
    the model folder, or of the hub's id. error: why it failed, after the last attempt.
    """

    stem: ClassVar[str] = "rationales"

    id: str
    question_id: str
    condition: str
    number: int
    hinted: bool
    status: str
    text: str
    thoughts: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    num_stray_tokens: int
    mean_logprob: float | None
    min_logprob: float | None
    attempts: int
    seed: int
    teacher: str
    teacher_digest: str
    prompt_digest: str
    sampling_digest: str
    error: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopLogprobs(Record):
    """What the teacher held likely in the place of each token that it wrote, in a table of its own where it is kept.

    vocabulary: digest of the tokenizer's tokens. written: the tokens, int32; tokens: in the place of each of them the
    `num_top` likeliest ones, likeliest first, int32; logprobs: theirs, float16, before any temperature. All in
    the machine's byte order, which is little-endian wherever this runs.
    """

    stem: ClassVar[str] = "top_logprobs"

    rationale_id: str
    vocabulary: str
    num_top: int
    written: bytes
    tokens: bytes
    logprobs: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Record):
    """What becomes of a rationale that was asked for with the question's own images.

    status: accepted, rejected, quarantined or failed; reason: `accepted`, or why not; rule: where the reason lies in
    what the text says, the rule that found it (of `verification/phrases.toml`, or a function's). selected: it teaches,
    or students are watched on it where its question is of the validation split, being the recipe's choice among its
    question's accepted ones; weight: how much it counts then. letter: the answer read from it, if any. agreement:
    share of its question's rationales, hinted ones apart, that give the same letter; 0 without one. image_not_needed:
    whether the teacher gives the same letter without the image and with another one too; None where it was not asked.
    hinted: the teacher was told the gold answer. text: all that the teacher wrote; body: the reasoning alone, without
    the final answer's line.
    """

    stem: ClassVar[str] = "verdicts"

    rationale_id: str
    question_id: str
    status: str
    reason: str
    rule: str | None
    selected: bool
    weight: float
    letter: str | None
    agreement: float
    image_not_needed: bool | None
    hinted: bool
    text: str
    body: str

    @property
    def accepted(self) -> bool:
        """Whether it may teach."""
        return self.status == Status.ACCEPTED


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample(Record):
    """One question as one arm learns it: the prompt is not trained on, the target is, to the last token.

    split: of its question; those of the split `validation` are never trained on, and only tell how well that goes.
    rationale_id: what it rests on. weight: how much its loss counts, from 0 to 1.
    """

    stem: ClassVar[str] = "examples"

    question_id: str
    split: str
    rationale_id: str
    arm: str
    weight: float
    images: tuple[str, ...]
    image_digests: tuple[str, ...]
    prompt: str
    target: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prediction(Record):
    """What a served model answered under a condition.

    request_id: of the ledger's entry. seed: number of the seed that the model's adapter was fitted with, from 0; models
    of one arm differ in it. prompt: the words that asked (`entries.Prompt`), after num_shots answered examples; rows of
    different words are never pooled. rotation: how many places the options were moved up, the first ones to the end,
    from 0; gold and letter are those of the options as they were shown. repeat: 0 for the answer that counts, above it
    for the same request made again. prefill: the beginning of the answer that was given (`entries.PREFILLS`), empty for
    none; text is what was written after it; mistake: the letter that a mistake in it names. status: answered, failed,
    or quarantined (for an image), with the reason as error. text: without the thoughts of a model that writes them down
    before. letter: None when no answer could be read (unscored). read_as: where in the text the letter was found;
    missing: why there is none; both as in `inference/answers/reading.py`. text_letter: of the option whose text is
    given, whatever letter stands beside it; None where only a letter is given. lenient_letter: what the scorer that was
    published with PMC-VQA credits, for comparison alone.
    """

    stem: ClassVar[str] = "predictions"

    request_id: str
    question_id: str
    source: str
    file: str
    model: str
    arm: str
    seed: int
    prompt: str
    num_shots: int = 0
    condition: str
    rotation: int = 0
    repeat: int = 0
    prefill: str = ""
    mistake: str | None = None
    stratum: str
    gold: str
    status: str
    text: str
    thoughts: str
    letter: str | None
    read_as: str | None
    missing: str | None
    text_letter: str | None
    lenient_letter: str | None
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    error: str | None
