"""Recipes of `pipelines`: for each stage its settings, and what it reads and makes. Light: no engine is imported
here."""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from infra.stage import StageConfig
from pipelines import prompts
from pipelines.records import Arm, Condition
from pipelines.sources.pocket import PocketConfig

ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)
POCKET_TEACHER = "train/pocket/teacher"


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
    """Read a source. folder: the source's folder; None for the one that the flow drew. limit: rows read at most."""

    stage: ClassVar[str] = "questions"
    module: ClassVar[str] = "pipelines.questions"
    source_name: str
    folder: str | None = None
    limit: Annotated[int, Gt(0)] | None = None

    def outputs(self) -> dict[str, StageConfig]:
        return {"questions": self}

    def inputs(self) -> tuple[str, ...]:
        return () if self.folder else ("source",)

    def materials(self) -> dict[str, str]:
        return {"folder": self.folder} if self.folder else {}


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """A vLLM engine. kv_cache_gib applies to the CPU backend; cpus and gpus are what Ray reserves for an engine."""

    max_model_len: Annotated[int, Gt(0)]
    dtype: str = "auto"
    tensor_parallel_size: Annotated[int, Gt(0)] = 1
    max_num_seqs: Annotated[int, Gt(0)] = 256
    memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.9
    enforce_eager: bool = False
    chunked_prefill: bool = True
    kv_cache_gib: Annotated[int, Gt(0)] | None = None
    cpus: Annotated[float, Ge(0)] = 1
    gpus: Annotated[float, Ge(0)] = 0
    mm_encoder_tp_mode: str = "weights"

    def arguments(self) -> dict[str, Any]:
        """Arguments of vLLM's engine."""
        return {
            "max_model_len": self.max_model_len,
            "dtype": self.dtype,
            "tensor_parallel_size": self.tensor_parallel_size,
            "max_num_seqs": self.max_num_seqs,
            "gpu_memory_utilization": self.memory_utilization,
            "enforce_eager": self.enforce_eager,
            "enable_chunked_prefill": self.chunked_prefill,
            "mm_encoder_tp_mode": self.mm_encoder_tp_mode,
            "limit_mm_per_prompt": {"image": 1, "video": 0},
            "disable_log_stats": True,
        }

    def environment(self) -> dict[str, str]:
        """Environment of the engine's process; the CPU backend is steered by variables only."""
        if self.kv_cache_gib is None:
            return {}
        # Unbound threads: bound ones pin the engine to core 0 and leave the rest of a small machine idle. The last one
        # keeps the model in the engine's process: a worker process of its own would import everything once more.
        return {
            "VLLM_CPU_KVCACHE_SPACE": str(self.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }


POCKET_ENGINE = EngineConfig(
    max_model_len=512,
    dtype="float32",
    max_num_seqs=128,
    memory_utilization=0.3,
    enforce_eager=True,
    # When a prompt is cut in chunks, vLLM rewinds the generator of a seeded request, which CPU generators refuse.
    chunked_prefill=False,
    kv_cache_gib=1,
)


@dataclass(frozen=True, kw_only=True)
class TeachConfig(StageConfig):
    """Explain the training questions. teacher: model folder or hub id. replicas: engines side by side."""

    stage: ClassVar[str] = "teach"
    module: ClassVar[str] = "pipelines.teacher"
    hub_materials: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str
    engine: EngineConfig
    replicas: Annotated[int, Gt(0)] = 1
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
        return f"{self.replicas} engine(s) of {self.engine.cpus:g} CPU and {self.engine.gpus:g} GPU"


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
        questions=QuestionsConfig(source_name="pocket"),
        teach=TeachConfig(teacher=POCKET_TEACHER, engine=POCKET_ENGINE, temperature=1.0, max_tokens=128),
        verify=VerifyConfig(),
        compose=ComposeConfig(),
        examine=ExamineConfig(plan=PLAN, max_tokens=128),
        report=ReportConfig(title="Preceptor, pocket scale", notes=_POCKET_NOTES),
    )


def pmc_vqa_8xh200() -> PipelinesRecipe:
    """PMC-VQA on nodes of eight GPUs: Qwen3-VL-235B-A22B (FP8) teaches, two engines of four GPUs a node."""
    engine = EngineConfig(max_model_len=8192, tensor_parallel_size=4, gpus=4, mm_encoder_tp_mode="data")
    return dataclasses.replace(
        pocket(),
        draw=None,
        questions=QuestionsConfig(source_name="PMC-VQA", folder="/data/pmc_vqa"),
        teach=TeachConfig(
            teacher="Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", engine=engine, replicas=2, temperature=0.7, top_p=0.8
        ),
        examine=ExamineConfig(plan=PLAN, concurrency=256),
        report=ReportConfig(title="Preceptor, PMC-VQA"),
    )
