"""The settings of the stage `verify`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.stage import StageConfig
from pipelines.records import IMAGES


class Selection(StrEnum):
    """Which of a question's accepted rationales teach: those that come first, the shortest, those most like the others,
    or those least like the ones already chosen."""

    FIRST = "first"
    SHORTEST = "shortest"
    MOST_AGREED = "most_agreed"
    DIVERSE = "diverse"


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Judge the rationales against the gold answers, and choose among the accepted ones.

    min_words, max_words: of the reasoning. max_repeated_share: of its runs of six words that were there before.
    options_are_shuffled: options are put in another order when a student is trained, so that reasoning must not name
    letters. selection, keep: which, and how many, of a question's accepted rationales teach. image_not_needed_weight:
    how much those count that the teacher would write without the image; 0 rejects them. max_hinted_share: of the
    selected ones at most so many were written with the gold answer told. min_accepted: fewer stop the stage; with 0,
    where none is accepted, every arm learns the gold answers alone.
    """

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification.stage"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    min_words: Annotated[int, Ge(0)] = 5
    max_words: Annotated[int, Gt(0)] = 800
    max_repeated_share: Annotated[float, Ge(0), Le(1)] = 0.3
    options_are_shuffled: bool = False
    selection: Selection = Selection.FIRST
    keep: Annotated[int, Gt(0)] = 1
    image_not_needed_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    max_hinted_share: Annotated[float, Ge(0), Le(1)] = 0.1
    min_accepted: Annotated[int, Ge(0)] = 1

    def outputs(self) -> dict[str, StageConfig]:
        return {"verdicts": self}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "rationales")
