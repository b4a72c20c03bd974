"""The settings of the stage `report`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge

from infra.stage import StageConfig
from pipelines.records import ARMS, IMAGES, Arm, check_arms


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Write the report. title: None names what the questions are from. num_examples: questions shown with image,
    rationale and answers. notes: what a reader must know. arms: those whose examples and adapters are accounted for."""

    stage: ClassVar[str] = "report"
    module: ClassVar[str] = "pipelines.report.stage"
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    title: str | None = None
    num_examples: Annotated[int, Ge(0)] = 8
    notes: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ARMS

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def outputs(self) -> dict[str, StageConfig]:
        return {"report": self}

    def rehearsed(self, models: Path, num_questions: int) -> "ReportConfig":
        note = "This is a rehearsal: small models stood in, on few questions. No number is about the recipe."
        return replace(self, title=": ".join(filter(None, (self.title, "a rehearsal"))), notes=(note, *self.notes))

    def inputs(self) -> tuple[str, ...]:
        taught = (f"{made}/{arm}" for made in ("examples", "adapters") for arm in self.arms)
        return ("questions", "rationales", "verdicts", *taught, "examination")
