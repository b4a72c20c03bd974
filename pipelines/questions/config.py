"""The settings of the stage `questions`. Light: no engine is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt

from infra import storage
from infra.figures import GIB, figure
from infra.resources import ClusterShape, Workers
from infra.stage import StageConfig
from pipelines.questions.curation import CurationConfig
from pipelines.questions.sources.source import SourceConfig


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(StageConfig):
    """Read sources, and keep the questions that may be used for training, validation or examination.

    folder: where the sources' tables and images are, a path or a URI such as s3://bucket/prefix; None for what the flow
    drew. sources: every table that is read; training questions are decontaminated by those with the split test.
    max_pixels: images of more are resized to it. limit: rows of each split of each source that are read at most.
    """

    stage: ClassVar[str] = "questions"
    module: ClassVar[str] = "pipelines.questions.stage"
    contract: ClassVar[int] = 5
    listed_materials: ClassVar[tuple[str, ...]] = ("folder",)
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    folder: str | None = None
    curation: CurationConfig = field(default_factory=CurationConfig)
    max_pixels: Annotated[int, Gt(0)] = 1 << 20
    limit: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name at least one table")
        if self.folder == "":
            raise ValueError("folder is empty: name one, or null for what the flow drew")

    def outputs(self) -> dict[str, StageConfig]:
        return {"questions": self}

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        """GiB on disk, as if every file were copied as it is."""
        is_known = self.folder is None or (run_dir is not None and (run_dir / "questions").exists())
        if is_known or not self.folder or storage.kind(self.folder) != "folder":
            return {}
        held = sum(entry.size for entry in storage.listing(self.folder))
        return {"disk_gib": figure(held / GIB, f"as much as {self.folder}, of which it copies what it reads")}

    def resources(self) -> tuple[Workers, ...]:
        return (Workers(what="readers of large tables", count=None),)

    def rehearsed(self, models: Path, num_questions: int) -> "QuestionsConfig":
        return replace(self, limit=min(num_questions, self.limit or num_questions))

    def inputs(self) -> tuple[str, ...]:
        drawn = self.folder is None and not all(storage.is_whole(source.table) for source in self.sources)
        return ("source",) if drawn else ()

    def materials(self) -> dict[str, str]:
        return {"folder": self.folder} if self.folder else {}
