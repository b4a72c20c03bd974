"""The settings of the stages of `pipelines`, and what each reads and makes. Light: no engine is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from infra import storage
from infra.figures import GIB, figure
from infra.resources import ClusterShape, Workers
from infra.stage import StageConfig
from pipelines import prompts
from pipelines.curation import CurationConfig
from pipelines.engine import EngineConfig
from pipelines.records import TAUGHT, Arm, Condition
from pipelines.sources.source import SourceConfig

MOST_LOGPROBS = 20  # of a token, that vLLM tells
_REHEARSED_TOKENS = 48  # of an answer in a rehearsal
ARMS = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)  # those that are taught where nothing else is said
IMAGES = ("images",)  # of the questions: who shows one digests it; see `sealed_images`


def check_arms(arms: tuple[Arm, ...]) -> None:
    """Raises ValueError unless at least one arm is named, each once, and none but those that adapters are fitted
    for."""
    if not arms or not set(arms) <= set(TAUGHT):
        raise ValueError(f"name at least one arm of {', '.join(TAUGHT)}, and no other")
    check_each_once(arms)


def check_each_once(names: Sequence[str]) -> None:
    """Raises ValueError for what stands there twice: its answers would count twice."""
    if twice := {str(name) for name in names if names.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} is named twice: name it once")


@dataclass(frozen=True, kw_only=True)
class QuestionsConfig(StageConfig):
    """Read sources, and keep of them what may be trained on and what examines.

    folder: where the sources' tables and images are, a path or a URI such as s3://bucket/prefix; None for what the flow
    drew. sources: every table that is read; what has the split test decontaminates the rest. max_pixels: larger images
    are made smaller. limit: rows read at most, of each split of each source.
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
        if self.folder == "":
            raise ValueError("folder is empty: name one, or null for what the flow drew")

    def outputs(self) -> dict[str, StageConfig]:
        return {"questions": self}

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        """On disk, images that are not too large are kept as they are."""
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
    where nothing was measured yet. top_logprobs: how many of the likeliest tokens are kept, with their logprobs, for
    each token of a rationale; what was asked without is asked again.
    """

    stage: ClassVar[str] = "teach"
    module: ClassVar[str] = "pipelines.teacher"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
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
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError(f"endpoint is {self.endpoint!r}: write its base URL, such as http://HOST:8000/v1")
        if self.ledger is not None and not self.ledger.startswith("/"):
            raise ValueError(f"ledger is {self.ledger!r}, and jobs run in another folder: name an absolute path")

    def outputs(self) -> dict[str, StageConfig]:
        # What a dry run is told decides nothing about the rationales.
        return {"rationales": replace(self, expected_output_tokens=300, expected_tokens_per_s=None)}

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        return ("questions",)

    def materials(self) -> dict[str, str]:
        return {} if self.endpoint else {"teacher": self.teacher}

    def revisions(self) -> dict[str, str | None]:
        return {"teacher": self.revision}

    def rehearsed(self, models: Path, num_questions: int) -> "TeachConfig":
        """The engines keep their places on the cluster: what stands in for them takes nothing there."""
        teacher = self.teacher if self.endpoint else str(models / "teacher")
        ledger = str(models.parent / "ledger")  # nothing of a rehearsal is an answer for a run
        return replace(self, teacher=teacher, revision=None, ledger=ledger, top_logprobs=0, batch_size=1)

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        from pipelines.teaching import estimate

        return estimate.estimate(self, run_dir, cluster)

    def resources(self) -> tuple[Workers, ...]:
        workers = self.engine.workers(f"clients of {self.endpoint}" if self.endpoint else "teacher engines")
        return (replace(workers, least=self.min_replicas, gpus=0 if self.endpoint else workers.gpus),)


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
    selected ones at most so many were written with the gold answer told. min_accepted: fewer stop the stage; with 0,
    where none is accepted, every arm learns the gold answers alone.
    """

    stage: ClassVar[str] = "verify"
    module: ClassVar[str] = "pipelines.verification"
    contract: ClassVar[int] = 2
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


@dataclass(frozen=True, kw_only=True)
class ComposeConfig(StageConfig):
    """Compose training examples, one artifact for each arm.

    rationale_weight: how much each token of a rationale counts beside one of the answer's line in `multi_task`.
    """

    stage: ClassVar[str] = "compose"
    module: ClassVar[str] = "pipelines.examples"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
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
    whom. final_line: the prompts of teacher and untouched base show the line that an answer ends with. max_tokens,
    timeout_s: of an answer; teacher_max_tokens, teacher_timeout_s: of the teacher's, None for the same as all others.
    expected_answers_per_s: of the whole endpoint, for a dry run where no examination was measured yet.
    """

    stage: ClassVar[str] = "examine"
    module: ClassVar[str] = "pipelines.evaluation"
    contract: ClassVar[int] = 2
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    plan: tuple[str, ...]
    final_line: bool = True
    max_tokens: Annotated[int, Gt(0)] = 1024
    concurrency: Annotated[int, Gt(0)] = 32
    timeout_s: Annotated[float, Gt(0)] = 120.0
    teacher_max_tokens: Annotated[int, Gt(0)] | None = None
    teacher_timeout_s: Annotated[float, Gt(0)] | None = None
    seed: int = 0
    expected_answers_per_s: Annotated[float, Gt(0)] | None = None

    def rehearsed(self, models: Path, num_questions: int) -> "ExamineConfig":
        """With short answers, since small models end few of them; that long ones have room is told by the settings."""
        shorter = min(self.max_tokens, _REHEARSED_TOKENS)
        return replace(self, max_tokens=shorter, teacher_max_tokens=shorter, concurrency=min(self.concurrency, 32))

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

    def outputs(self) -> dict[str, StageConfig]:
        return {"predictions": replace(self, expected_answers_per_s=None)}  # which decides nothing about them

    def estimate(
        self, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
    ) -> dict[str, Any]:
        from pipelines import examining

        return examining.estimate(self, run_dir)

    def wording(self) -> dict[str, str]:
        return {"prompts": prompts.digest()}

    def inputs(self) -> tuple[str, ...]:
        arms = {entry.partition("/")[0] for entry in self.plan}
        adapters = tuple(f"adapters/{arm}" for arm in TAUGHT if arm in arms)
        return ("questions", "rationales", *adapters)


@dataclass(frozen=True, kw_only=True)
class ReportConfig(StageConfig):
    """Write the report. title: None names what the questions are from. num_examples: questions shown with image,
    rationale and answers. notes: what a reader must know. arms: those whose examples and adapters are accounted for."""

    stage: ClassVar[str] = "report"
    module: ClassVar[str] = "pipelines.report"
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
        return ("questions", "rationales", "verdicts", *taught, "predictions")
