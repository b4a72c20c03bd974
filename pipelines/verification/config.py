"""The settings of the stage `verify`."""

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.stage import StageConfig
from pipelines.inference import prompts
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
class Reread:
    """A second reader, who is told a question and an accepted rationale's reasoning, and not its answer, nor shown an
    image. Where it reads another answer than the gold one from that, or none, the rationale is rejected.

    model, endpoint: its served name, and the base URL of an OpenAI-compatible endpoint, ours or any other;
    PRECEPTOR_API_KEY is its key. max_tokens, timeout_s: of an answer, its thoughts included. concurrency: requests that
    are sent at the same time. max_failed_share: more failures stop the stage; fewer leave their rationales out.
    batch_size: questions that are settled together. ledger: folder of all finished answers, shared by runs; None for
    the one beside the run folder. expected_answers_per_s: for a dry run where none was measured yet.
    """

    model: str
    endpoint: str
    max_tokens: Annotated[int, Gt(0)] = 512
    timeout_s: Annotated[float, Gt(0)] = 120.0
    concurrency: Annotated[int, Gt(0)] = 32
    max_failed_share: Annotated[float, Ge(0), Le(1)] = 0.02
    batch_size: Annotated[int, Gt(0)] = 32
    ledger: str | None = None
    expected_answers_per_s: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ValueError("model is empty: name what the endpoint serves, as its /models lists it")
        if not re.match(r"https?://[^/\s]", self.endpoint):
            raise ValueError(f"endpoint is {self.endpoint!r}: name the base URL, such as http://HOST:8000/v1")
        if self.ledger is not None and not self.ledger.startswith("/"):
            raise ValueError(f"ledger is {self.ledger!r}, and jobs run in another folder: name an absolute path")


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Judge the rationales against the gold answers, and choose among the accepted ones.

    min_words, max_words: length of the reasoning. max_repeated_share: how many of its runs of six words may be
    repetitions of an earlier run. options_are_shuffled: options are put in another order when a student is trained, so
    that the reasoning must not name letters. selection, keep: which of a question's accepted rationales teach, and how
    many. image_not_needed_weight: how much a rationale counts where the teacher gives the same answer without the
    image; 0 rejects it. max_hinted_share: the largest share of the selected rationales that may be written with the
    gold answer told. reread: who reads the reasoning of accepted rationales once more; None for nobody. min_accepted:
    with fewer accepted rationales the stage fails; with 0, where none is accepted, every arm learns the gold answers
    alone.
    """

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification.stage"
    estimator: ClassVar[str] = "pipelines.verification.estimate"
    contract: ClassVar[int] = 5
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    min_words: Annotated[int, Ge(0)] = 5
    max_words: Annotated[int, Gt(0)] = 800
    max_repeated_share: Annotated[float, Ge(0), Le(1)] = 0.3
    options_are_shuffled: bool = False
    selection: Selection = Selection.FIRST
    keep: Annotated[int, Gt(0)] = 1
    image_not_needed_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    max_hinted_share: Annotated[float, Ge(0), Le(1)] = 0.1
    reread: Reread | None = None
    min_accepted: Annotated[int, Ge(0)] = 1

    def outputs(self) -> dict[str, StageConfig]:
        reread = replace(self.reread, expected_answers_per_s=None) if self.reread else None
        return {"verdicts": replace(self, reread=reread)}  # what a dry run is told decides nothing about them

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "rationales")

    def prompt_digests(self) -> dict[str, str]:
        read = {"phrases": phrases.digest(), "word_lists": word_lists.digest()}
        return read | ({"reread": prompts.reread_digest()} if self.reread else {})

    def rehearsed(self, models: Path, num_questions: int) -> "VerifyConfig":
        """With a ledger of its own: nothing of a rehearsal is an answer for a run."""
        if self.reread is None:
            return self
        return replace(self, reread=replace(self.reread, ledger=str(models.parent / "ledger")))
