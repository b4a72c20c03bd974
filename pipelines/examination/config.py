"""The settings of the stage `examination`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.stage import StageConfig
from pipelines.inference import prompts
from pipelines.records import IMAGES, TAUGHT, Arm, Condition, check_each_once

_REHEARSED_TOKENS = 48  # of an answer in a rehearsal


@dataclass(frozen=True, kw_only=True)
class ExaminationConfig(StageConfig):
    """Ask the endpoint the test questions.

    plan: which arm under which conditions, as `arm/condition`. seed: which question's images are shown in the place of
    another's. final_line: the prompts of teacher and untouched base show the line that an answer ends with. max_tokens,
    timeout_s: of an answer; teacher_max_tokens, teacher_timeout_s: of the teacher's, None for the same as all others.
    concurrency: requests that are sent at the same time. max_failed_share: of an arm under a condition, more failures
    stop the stage. batch_size: questions that are settled together. ledger: folder of all finished answers, shared by
    runs; None for the one beside the run folder. expected_answers_per_s: of the whole endpoint, for a dry run where no
    examination was measured yet.
    """

    stage: ClassVar[str] = "examination"
    module: ClassVar[str] = "pipelines.examination.stage"
    estimator: ClassVar[str] = "pipelines.examination.estimate"
    contract: ClassVar[int] = 4
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    plan: tuple[str, ...]
    final_line: bool = True
    max_tokens: Annotated[int, Gt(0)] = 1024
    concurrency: Annotated[int, Gt(0)] = 32
    timeout_s: Annotated[float, Gt(0)] = 120.0
    teacher_max_tokens: Annotated[int, Gt(0)] | None = None
    teacher_timeout_s: Annotated[float, Gt(0)] | None = None
    seed: int = 0
    max_failed_share: Annotated[float, Ge(0), Le(1)] = 0.02
    batch_size: Annotated[int, Gt(0)] = 8
    ledger: str | None = None
    expected_answers_per_s: Annotated[float, Gt(0)] | None = None

    def rehearsed(self, models: Path, num_questions: int) -> "ExaminationConfig":
        """With short answers, since small models end few of them; that long ones have room is told by the settings."""
        shorter = min(self.max_tokens, _REHEARSED_TOKENS)
        return replace(
            self,
            max_tokens=shorter,
            teacher_max_tokens=shorter,
            concurrency=min(self.concurrency, 32),
            ledger=str(models.parent / "ledger"),  # nothing of a rehearsal is an answer for a run
        )

    def tokens_for(self, arm: str) -> int:
        """How long an answer of this arm may be."""
        return (self.teacher_max_tokens if arm == Arm.TEACHER else None) or self.max_tokens

    def seconds_for(self, arm: str) -> float:
        """How long an answer of this arm may take."""
        return (self.teacher_timeout_s if arm == Arm.TEACHER else None) or self.timeout_s

    def __post_init__(self) -> None:
        for entry in self.plan:
            arm, _, condition = entry.partition("/")
            if arm not in set(Arm) or condition not in set(Condition):
                raise ValueError(f"{entry!r} is no arm/condition, such as rationale_then_answer/blank")
        if not self.plan:
            raise ValueError('plan is empty: name at least one arm/condition, such as "rationale_then_answer/real"')
        check_each_once(self.plan)
        if self.ledger is not None and not self.ledger.startswith("/"):
            raise ValueError(f"ledger is {self.ledger!r}, and jobs run in another folder: name an absolute path")

    def conditions(self) -> dict[Arm, list[Condition]]:
        """Arm -> the conditions under which it is asked, in the plan's order."""
        asked: dict[Arm, list[Condition]] = {}
        for entry in self.plan:
            arm, _, condition = entry.partition("/")
            asked.setdefault(Arm(arm), []).append(Condition(condition))
        return asked

    def outputs(self) -> dict[str, StageConfig]:
        return {"examination": replace(self, expected_answers_per_s=None)}  # which decides nothing about them

    def prompt_digests(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        adapters = tuple(f"adapters/{arm}" for arm in TAUGHT if arm in self.conditions())
        return ("questions", "rationales", *adapters)
