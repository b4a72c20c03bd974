"""The settings of the stage `examination`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.digests import digest_json
from infra.stage import StageConfig
from pipelines.inference import prompts
from pipelines.records import IMAGES, TAUGHT, Arm, adapters_of
from pipelines.records.entries import Entry, Prompt, by_arm, parsed

_REHEARSED_TOKENS = 48  # of an answer in a rehearsal
_DIGEST_DIGITS = 8


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What an answer of one arm may take. None for what all others may."""

    arm: Arm
    max_tokens: Annotated[int, Gt(0)] | None = None
    timeout_s: Annotated[float, Gt(0)] | None = None


@dataclass(frozen=True, kw_only=True)
class ExaminationConfig(StageConfig):
    """Ask the endpoint the test questions.

    plan: who is asked how and under which condition, each as `ARM[+PROMPT][+Nshot][+circular][+prefilled]/CONDITION`
    (`pipelines.records.entries`). seeds: how many adapters each taught arm has, all of which are asked what the plan
    says for their arm. primary: the entry that the main claim, and a bar (`--fail-under`), is about; None for the
    first. seed: which question's images are shown in the place of another's, which examples go before it, and what is
    asked again. repeat_share: of the questions, asked once more in each entry, to see how many answers flip.
    few_shot_source: whose training questions are the examples; None for those of each question's own source.
    final_line: our prompts show teacher and untouched models the line that an answer ends with. max_tokens, timeout_s:
    of an answer; budgets: those of arms that have others, such as a teacher that thinks. concurrency: requests that are
    sent at the same time. max_failed_share: of an entry, more failures stop the stage. batch_size: questions that are
    settled together. ledger: folder of all finished answers, shared by runs; None for the one beside the run folder.
    expected_answers_per_s: of the whole endpoint, for a dry run where no examination was measured yet. endpoint, model:
    base URL and served name of any other model, which is examined in the place of the run's own, as `zero_shot`.
    """

    stage: ClassVar[str] = "examination"
    module: ClassVar[str] = "pipelines.examination.stage"
    estimator: ClassVar[str] = "pipelines.examination.estimate"
    contract: ClassVar[int] = 4
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    plan: tuple[str, ...]
    seeds: Annotated[int, Gt(0)] = 1
    primary: str | None = None
    final_line: bool = True
    max_tokens: Annotated[int, Gt(0)] = 1024
    concurrency: Annotated[int, Gt(0)] = 32
    timeout_s: Annotated[float, Gt(0)] = 120.0
    budgets: tuple[Budget, ...] = ()
    seed: int = 0
    repeat_share: Annotated[float, Ge(0), Le(1)] = 0.0
    few_shot_source: str | None = None
    max_failed_share: Annotated[float, Ge(0), Le(1)] = 0.02
    batch_size: Annotated[int, Gt(0)] = 8
    ledger: str | None = None
    expected_answers_per_s: Annotated[float, Gt(0)] | None = None
    endpoint: str | None = None
    model: str | None = None

    def rehearsed(self, models: Path, num_questions: int) -> "ExaminationConfig":
        """With short answers, since small models end few of them; that long ones have room is told by the settings."""
        shorter = min(self.max_tokens, _REHEARSED_TOKENS)
        return replace(
            self,
            seeds=1,
            max_tokens=shorter,
            budgets=tuple(replace(budget, max_tokens=shorter) for budget in self.budgets),
            concurrency=min(self.concurrency, 32),
            ledger=str(models.parent / "ledger"),  # nothing of a rehearsal is an answer for a run
        )

    def tokens_for(self, arm: str) -> int:
        """How long an answer of this arm may be."""
        return next((each.max_tokens for each in self.budgets if each.arm == arm and each.max_tokens), self.max_tokens)

    def seconds_for(self, arm: str) -> float:
        """How long an answer of this arm may take."""
        return next((each.timeout_s for each in self.budgets if each.arm == arm and each.timeout_s), self.timeout_s)

    def __post_init__(self) -> None:
        if not self.plan:
            raise ValueError('plan is empty: name at least one arm/condition, such as "rationale_then_answer/real"')
        entries = parsed(self.plan)
        if self.primary is not None and Entry.parse(self.primary) not in entries:
            raise ValueError(f"primary is {self.primary!r}, which plan does not name")
        arms = [budget.arm for budget in self.budgets]
        if len(set(arms)) < len(arms):
            raise ValueError("budgets name an arm twice")
        if self.ledger is not None and not self.ledger.startswith("/"):
            raise ValueError(f"ledger is {self.ledger!r}, and jobs run in another folder: name an absolute path")
        self._check_endpoint(entries)

    def _check_endpoint(self, entries: Sequence[Entry]) -> None:
        if (self.endpoint is None) != (self.model is None):
            raise ValueError("endpoint and model go together: where another model is served, and under which name")
        if self.endpoint is None:
            return
        if not re.match(r"https?://[^/\s]", self.endpoint):
            raise ValueError(f"endpoint is {self.endpoint!r}: name the base URL, such as https://host/v1")
        if others := sorted(str(entry) for entry in entries if entry.arm is not Arm.ZERO_SHOT):
            raise ValueError(f"another model is asked as {Arm.ZERO_SHOT}, since we taught it nothing: not {others[0]}")

    def entries(self) -> tuple[Entry, ...]:
        """The plan's entries, in its order."""
        return parsed(self.plan)

    def by_arm(self) -> dict[Arm, list[Entry]]:
        """Arm -> its entries, both in the plan's order."""
        return by_arm(self.entries())

    def primary_entry(self) -> Entry:
        """The entry that the main claim is about."""
        return Entry.parse(self.primary or self.plan[0])

    @property
    def output(self) -> str:
        """Name of the artifact: another model's lies beside the run's own."""
        if self.model is None:
            return "examination"
        told = re.sub(r"[^\w.-]+", "-", self.model, flags=re.ASCII).strip(".-")[:64]
        return f"examinations/{told}-{digest_json([self.endpoint, self.model])[:_DIGEST_DIGITS]}"

    def outputs(self) -> dict[str, StageConfig]:
        return {self.output: replace(self, expected_answers_per_s=None)}  # which decides nothing about it

    def prompt_digests(self) -> dict[str, str]:
        examined = {f"examined/{named}": prompts.examined_digest(named) for named in self._prompts()}
        return {"prompts": prompts.digest(), **examined}

    def _prompts(self) -> list[Prompt]:
        return sorted({entry.prompt for entry in self.entries()})

    def inputs(self) -> tuple[str, ...]:
        if self.model is not None:
            return ("questions",)
        taught = [arm for arm in TAUGHT if arm in self.by_arm()]
        return ("questions", "rationales", *adapters_of(taught, self.seeds))
