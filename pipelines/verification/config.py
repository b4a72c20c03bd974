"""The settings of the stage `verify`."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.stage import StageConfig
from pipelines.records import IMAGES
from pipelines.verification import phrases, word_lists


class Selection(StrEnum):
    """Which of a question's accepted rationales teach: the first ones, the shortest ones, those that are most like the
    others, or those that are least like the ones already chosen."""

    FIRST = "first"
    SHORTEST = "shortest"
    MOST_AGREED = "most_agreed"
    DIVERSE = "diverse"


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Judge the rationales against the gold answers, and choose among the accepted ones.

    min_words, max_words: length of the reasoning. max_repeated_share: how many of its runs of six words may be
    repetitions of an earlier run. options_are_shuffled: options are put in another order when a student is trained, so
    that the reasoning must not name letters. selection, keep: which of a question's accepted rationales teach, and how
    many. image_not_needed_weight: how much a rationale counts where the teacher gives the same answer without the
    image; 0 rejects it. max_hinted_share: the largest share of the selected rationales that may be written with the
    gold answer told. min_accepted: with fewer accepted rationales the stage fails; with 0, where none is accepted,
    every arm learns the gold answers alone.
    """

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification.stage"
    contract: ClassVar[int] = 4
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

    def prompt_digests(self) -> dict[str, str]:
        return {"phrases": phrases.digest(), "word_lists": word_lists.digest()}
