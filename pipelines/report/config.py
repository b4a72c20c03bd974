"""The settings of the stage `report`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Lt

from infra.stage import StageConfig
from pipelines.records import ARMS, IMAGES, Arm, check_arms


@dataclass(frozen=True, kw_only=True)
class KnownLabelNoise:
    """Of the questions in a file, named as the source names it, this share is defective; source: who says so."""

    file: str
    share: Annotated[float, Ge(0), Lt(1)]
    source: str


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Write the report. title: None names what the questions are from. num_examples: questions shown with image,
    rationale and answers. num_browsed: questions at most that can be looked through, with what each model answered;
    fewer where they would take more than some 30 MB. notes: what a reader must know. label_noise: beside the numbers of
    these files stands what they would be on sound questions. arms: those whose examples and adapters are accounted for.
    """

    stage: ClassVar[str] = "report"
    module: ClassVar[str] = "pipelines.report.stage"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    title: str | None = None
    num_examples: Annotated[int, Ge(0)] = 8
    num_browsed: Annotated[int, Ge(0)] = 2000
    notes: tuple[str, ...] = ()
    label_noise: tuple[KnownLabelNoise, ...] = ()
    arms: tuple[Arm, ...] = ARMS

    def __post_init__(self) -> None:
        check_arms(self.arms)
        files = [known.file for known in self.label_noise]
        if len(set(files)) < len(files):
            raise ValueError("label_noise names a file twice")

    def outputs(self) -> dict[str, StageConfig]:
        return {"report": self}

    def rehearsed(self, models: Path, num_questions: int) -> "ReportConfig":
        note = "This is a rehearsal: small models stood in, on few questions. No number is about the recipe."
        return replace(self, title=": ".join(filter(None, (self.title, "a rehearsal"))), notes=(note, *self.notes))

    def inputs(self) -> tuple[str, ...]:
        taught = (f"{made}/{arm}" for made in ("examples", "adapters") for arm in self.arms)
        return ("questions", "rationales", "verdicts", *taught, "examination")
