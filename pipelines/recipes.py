"""Recipes of `pipelines`: for each stage its settings, and what it reads and makes. Light: no engine is imported
here."""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra import storage
from infra.stage import StageConfig
from pipelines import prompts
from pipelines.curation import CurationConfig, Level
from pipelines.engine import EngineConfig
from pipelines.records import Arm, Condition, Split
from pipelines.sources.pocket import PocketConfig
from pipelines.sources.source import SourceConfig

ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)
POCKET_TEACHER = "train/pocket/teacher"
POCKET_ENGINE = EngineConfig(
    max_model_len=512,
    max_num_seqs=128,
    dtype="float32",
    enforce_eager=True,
    # When a prompt is cut in chunks, vLLM rewinds the generator of a seeded request, which CPU generators refuse.
    chunked_prefill=False,
    kv_cache_gib=1,
)


@dataclass(frozen=True, kw_only=True)
class DrawConfig(StageConfig):
    """Draw the pocket questions as a folder of files."""

    stage: ClassVar[str] = "draw"
    module: ClassVar[str] = "pipelines.sources.pocket"
    pocket: PocketConfig = field(default_factory=PocketConfig)

    def outputs(self) -> dict[str, StageConfig]:
        return {"source": self}


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(StageConfig):
    """Read sources, and keep of them what may be trained on and what examines.

    folder: where the sources' tables and images are, a path or a URI such as s3://bucket/prefix; None for what the flow
    drew. sources: every table that is read; what has the split test decontaminates the rest. max_pixels: larger images
    are made smaller. limit: rows read of each source at most.
    """

    stage: ClassVar[str] = "questions"
    module: ClassVar[str] = "pipelines.questions"
    contract: ClassVar[int] = 2
    listed_materials: ClassVar[tuple[str, ...]] = ("folder",)
    sources: tuple[SourceConfig, ...] = (SourceConfig(),)
    folder: str | None = None
    curation: CurationConfig = field(default_factory=CurationConfig)
    max_pixels: Annotated[int, Gt(0)] = 1 << 20
    limit: Annotated[int, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty: name at least one table")

    def outputs(self) -> dict[str, StageConfig]:
        return {"questions": self}

    def hardware(self) -> str:
        return "1 CPU; for large tables every CPU of the cluster"

    def inputs(self) -> tuple[str, ...]:
        drawn = self.folder is None and not all(storage.is_whole(source.table) for source in self.sources)
        return ("source",) if drawn else ()

    def materials(self) -> dict[str, str]:
        return {"folder": self.folder} if self.folder else {}


@dataclass(frozen=True, kw_only=True)
class TeachConfig(StageConfig):
    """Explain the training questions. teacher: model folder or hub id. batch_size: questions sent to an engine
    together; several batches are in an engine at once."""

    stage: ClassVar[str] = "teach"
    module: ClassVar[str] = "pipelines.teacher"
    hub_materials: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str
    engine: EngineConfig
    batch_size: Annotated[int, Gt(0)] = 32
    temperature: Annotated[float, Ge(0)] = 0.7
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    max_tokens: Annotated[int, Gt(0)] = 1024
    seed: int = 0

    def outputs(self) -> dict[str, StageConfig]:
        return {"rationales": self}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions",)

    def materials(self) -> dict[str, str]:
        return {"teacher": self.teacher}

    def hardware(self) -> str:
        return f"{self.engine.replicas} engine(s) of {self.engine.cpus} CPU and {self.engine.gpus} GPU"


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(StageConfig):
    """Judge the rationales against the gold answers."""

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification"

    def outputs(self) -> dict[str, StageConfig]:
        return {"verdicts": self}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "rationales")


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(StageConfig):
    """Compose training examples, one artifact for each arm."""

    stage: ClassVar[str] = "compose"
    module: ClassVar[str] = "pipelines.examples"
    arms: tuple[Arm, ...] = ARMS

    def outputs(self) -> dict[str, StageConfig]:
        return {f"examples/{arm}": replace(self, arms=(arm,)) for arm in self.arms}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "verdicts")


@dataclass(frozen=True, kw_only=True)
class ExamineConfig(StageConfig):
    """Ask the endpoint. plan: which arm under which conditions, as `arm/condition`. seed: which image is shuffled to
    whom."""

    stage: ClassVar[str] = "examine"
    module: ClassVar[str] = "pipelines.evaluation"
    plan: tuple[str, ...]
    max_tokens: Annotated[int, Gt(0)] = 1024
    concurrency: Annotated[int, Gt(0)] = 32
    timeout_s: Annotated[float, Gt(0)] = 120.0
    seed: int = 0

    def __post_init__(self) -> None:
        for entry in self.plan:
            arm, _, condition = entry.partition("/")
            if arm not in set(Arm) or condition not in set(Condition):
                raise ValueError(f"{entry!r} is no arm/condition, such as rationale_then_answer/blank")

    def outputs(self) -> dict[str, StageConfig]:
        return {"predictions": self}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        arms = {entry.partition("/")[0] for entry in self.plan}
        adapters = tuple(f"adapters/{arm}" for arm in ARMS if arm in arms)
        return ("questions", "rationales", *adapters)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Write the report. examples: questions shown with image, rationale and answers. notes: what a reader must know."""

    stage: ClassVar[str] = "report"
    module: ClassVar[str] = "pipelines.report"
    title: str
    num_examples: Annotated[int, Ge(0)] = 8
    notes: tuple[str, ...] = ()
    adapters: tuple[str, ...] = tuple(f"adapters/{arm}" for arm in ARMS)

    def outputs(self) -> dict[str, StageConfig]:
        return {"report": self}

    def inputs(self) -> tuple[str, ...]:
        examples = tuple(name.replace("adapters/", "examples/") for name in self.adapters)
        return ("questions", "rationales", "verdicts", *examples, *self.adapters, "predictions")


@dataclass(frozen=True, kw_only=True)
class PipelinesRecipe:
    """The stages of `pipelines` in a flow; draw is None when the questions come from the world."""

    draw: DrawConfig | None
    questions: QuestionsConfig
    teach: TeachConfig
    verify: VerifyConfig
    compose: ComposeConfig
    examine: ExamineConfig
    report: ReportConfig


PLAN = (
    "zero_shot/real",
    "answer_only/real",
    "rationale_then_answer/real",
    "rationale_then_answer/blank",
    "rationale_then_answer/shuffled",
    "teacher/real",
)

# All drawn questions ask the same, so a text says nothing about which question it is.
_POCKET_CURATION = CurationConfig(decontaminate_by=(Level.IMAGE, Level.PERCEPTUAL))

_POCKET_NOTES = (
    "Teacher and students have about two million parameters. The teacher was trained on the rule; the base student has "
    "met the words of the rationales, with random values, and never the rule.",
    "The rationale arm sees more supervised tokens per question than the answer-only arm.",
    "Questions, prompts and order are the same in two runs with one seed. The engines add floating-point numbers in an "
    "order that depends on what is in flight, so a near tie between two tokens can fall differently in another run.",
)


def pocket() -> PipelinesRecipe:
    """The whole flow on a machine without a GPU: drawn micrographs, models of two million parameters, real engines."""
    return PipelinesRecipe(
        draw=DrawConfig(),
        questions=QuestionsConfig(sources=(SourceConfig(name="pocket"),), curation=_POCKET_CURATION),
        teach=TeachConfig(teacher=POCKET_TEACHER, engine=POCKET_ENGINE, temperature=1.0, max_tokens=128),
        verify=VerifyConfig(),
        compose=ComposeConfig(),
        examine=ExamineConfig(plan=PLAN, max_tokens=128),
        report=ReportConfig(title="Preceptor, pocket scale", notes=_POCKET_NOTES),
    )


def pmc_vqa_8xh200() -> PipelinesRecipe:
    """PMC-VQA on nodes of eight GPUs: Qwen3-VL-235B-A22B (FP8) teaches, two engines of four GPUs a node."""
    engine = EngineConfig(replicas=2, gpus=4, max_model_len=8192, mm_encoder_tp_mode="data")
    return dataclasses.replace(
        pocket(),
        draw=None,
        questions=QuestionsConfig(
            folder="/data/pmc_vqa",
            sources=(
                SourceConfig(reader="pmc_vqa", table="train.csv", images="images.zip", split=Split.TRAIN),
                SourceConfig(reader="pmc_vqa", table="test_clean.csv", images="images.zip", split=Split.TEST),
            ),
            curation=CurationConfig(validation_share=0.01, shuffle_options=True),
        ),
        teach=TeachConfig(teacher="Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", engine=engine, temperature=0.7, top_p=0.8),
        examine=ExamineConfig(plan=PLAN, concurrency=256),
        report=ReportConfig(title="Preceptor, PMC-VQA"),
    )
