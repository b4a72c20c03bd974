"""The settings of the stages of `pipelines`, and what each reads and makes. Light: no engine is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from infra import storage
from infra.stage import StageConfig
from pipelines import prompts
from pipelines.curation import CurationConfig
from pipelines.engine import EngineConfig
from pipelines.records import TAUGHT, Arm, Condition
from pipelines.sources.pocket import PocketConfig
from pipelines.sources.source import SourceConfig

MOST_LOGPROBS = 20  # of a token, that vLLM tells
ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)  # those that are taught where nothing else is said


def check_arms(arms: tuple[Arm, ...]) -> None:
    """Raises ValueError unless at least one arm is named, and none but those that adapters are fitted for."""
    if not arms or not set(arms) <= set(TAUGHT):
        raise ValueError(f"name at least one arm of {', '.join(TAUGHT)}, and no other")


def plan_for(plan: Sequence[str], arms: Sequence[str]) -> list[str]:
    """The entries of a plan that concern these arms or no taught one, and for an arm without any the real images."""
    kept = [entry for entry in plan if entry.partition("/")[0] in (*arms, *(set(Arm) - set(TAUGHT)))]
    planned = {entry.partition("/")[0] for entry in kept}
    return [*kept, *(f"{arm}/{Condition.REAL}" for arm in arms if arm not in planned)]


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
    contract: ClassVar[int] = 3
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
    """Explain the training questions.

    teacher: model folder or hub id; with an endpoint, the name under which it is served there. revision: of a hub's
    model, where more than one could be meant. endpoint: base URL of an OpenAI-compatible endpoint that is asked in
    the place of engines of our own. min_replicas: engines to begin with, where their number may grow to
    engine.replicas with the cluster; None for all of them. num_rationales: of each question, with a seed each. top_k:
    0 for all tokens. attempts: how often one is asked for that is cut off, fails or gives no answer. final_line: the
    prompt shows the line that an answer ends with. timeout_s: for one attempt. max_failed_share: more failures than
    that stop the stage. grounding_share: share of the questions that are also asked without their images and with
    another question's. rationalise: ask the questions that no rationale answered rightly once more, with the gold
    answer told. batch_size: questions that are sent to an engine together; many batches are in an engine at once.
    ledger: folder of all finished rationales, shared by runs; None for the one beside the run folder.
    expected_output_tokens: of a rationale, and expected_tokens_per_s: of one engine, for the estimate of a dry run
    where nothing was measured yet. top_logprobs: how many of the likeliest
    tokens are kept, with their logprobs, for each token of a rationale; what was asked without is asked again.
    """

    stage: ClassVar[str] = "teach"
    module: ClassVar[str] = "pipelines.teacher"
    contract: ClassVar[int] = 2
    hub_materials: ClassVar[tuple[str, ...]] = ("teacher",)
    teacher: str
    revision: str | None = None
    engine: EngineConfig
    endpoint: str | None = None
    min_replicas: Annotated[int, Gt(0)] | None = None
    num_rationales: Annotated[int, Gt(0)] = 1
    final_line: bool = True
    temperature: Annotated[float, Ge(0)] = 0.7
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    top_k: Annotated[int, Ge(0)] = 0
    max_tokens: Annotated[int, Gt(0)] = 1024
    seed: int = 0
    attempts: Annotated[int, Gt(0)] = 2
    timeout_s: Annotated[float, Gt(0)] = 600.0
    max_failed_share: Annotated[float, Ge(0), Le(1)] = 0.1
    grounding_share: Annotated[float, Ge(0), Le(1)] = 0.0
    rationalise: bool = False
    batch_size: Annotated[int, Gt(0)] = 32
    top_logprobs: Annotated[int, Ge(0), Le(MOST_LOGPROBS)] = 0
    ledger: str | None = None
    expected_output_tokens: Annotated[int, Gt(0)] = 300
    expected_tokens_per_s: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        if self.min_replicas is not None and self.min_replicas > self.engine.replicas:
            raise ValueError(f"min_replicas is {self.min_replicas}, more than engine.replicas, {self.engine.replicas}")
        if self.top_logprobs and self.endpoint:
            raise ValueError(
                f"top_logprobs is {self.top_logprobs}, and an endpoint tells no token's number: leave endpoint out, "
                "and an engine of our own asks the teacher"
            )
        if self.ledger is not None and not self.ledger.startswith("/"):
            raise ValueError(f"ledger is {self.ledger!r}, and jobs run in another folder: name an absolute path")

    def outputs(self) -> dict[str, StageConfig]:
        return {"rationales": self}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions",)

    def materials(self) -> dict[str, str]:
        return {} if self.endpoint else {"teacher": self.teacher}

    def estimate(self, run_dir: Path) -> dict[str, Any] | None:
        from pipelines.teaching import estimate

        return estimate.estimate(self, run_dir)

    def hardware(self) -> str:
        if self.endpoint:
            return f"1 CPU; {self.endpoint} answers"
        at_least = f"{self.min_replicas} to " if self.min_replicas else ""
        return f"{at_least}{self.engine.replicas} engine(s) of {self.engine.cpus} CPU and {self.engine.gpus} GPU"


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
    selected ones at most so many were written with the gold answer told.
    """

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification"
    contract: ClassVar[int] = 2
    min_words: Annotated[int, Ge(0)] = 5
    max_words: Annotated[int, Gt(0)] = 800
    max_repeated_share: Annotated[float, Ge(0), Le(1)] = 0.3
    options_are_shuffled: bool = False
    selection: Selection = Selection.FIRST
    keep: Annotated[int, Gt(0)] = 1
    image_not_needed_weight: Annotated[float, Ge(0), Le(1)] = 1.0
    max_hinted_share: Annotated[float, Ge(0), Le(1)] = 0.1

    def outputs(self) -> dict[str, StageConfig]:
        return {"verdicts": self}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "rationales")


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(StageConfig):
    """Compose training examples, one artifact for each arm.

    rationale_weight: how much each token of a rationale counts beside one of the answer's line in `multi_task`.
    """

    stage: ClassVar[str] = "compose"
    module: ClassVar[str] = "pipelines.examples"
    contract: ClassVar[int] = 2
    arms: tuple[Arm, ...] = ARMS
    rationale_weight: Annotated[float, Gt(0), Le(1)] = 1.0

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def outputs(self) -> dict[str, StageConfig]:
        return {f"examples/{arm}": replace(self, arms=(arm,)) for arm in self.arms}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", "verdicts")


@dataclass(frozen=True, kw_only=True)
class ExamineConfig(StageConfig):
    """Ask the endpoint. plan: which arm under which conditions, as `arm/condition`. seed: which image is shuffled to
    whom. final_line: the prompts of teacher and untouched base show the line that an answer ends with."""

    stage: ClassVar[str] = "examine"
    module: ClassVar[str] = "pipelines.evaluation"
    plan: tuple[str, ...]
    final_line: bool = True
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
        adapters = tuple(f"adapters/{arm}" for arm in TAUGHT if arm in arms)
        return ("questions", "rationales", *adapters)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Write the report. num_examples: questions shown with image, rationale and answers. notes: what a reader must
    know. arms: those whose examples and adapters are accounted for."""

    stage: ClassVar[str] = "report"
    module: ClassVar[str] = "pipelines.report"
    title: str
    num_examples: Annotated[int, Ge(0)] = 8
    notes: tuple[str, ...] = ()
    arms: tuple[Arm, ...] = ARMS

    def __post_init__(self) -> None:
        check_arms(self.arms)

    def outputs(self) -> dict[str, StageConfig]:
        return {"report": self}

    def inputs(self) -> tuple[str, ...]:
        taught = (f"{made}/{arm}" for made in ("examples", "adapters") for arm in self.arms)
        return ("questions", "rationales", "verdicts", *taught, "predictions")
