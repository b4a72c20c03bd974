"""The settings of the stage `teach`. Light: no engine is imported here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Ge, Gt, Le

from infra.resources import Workers
from infra.stage import StageConfig
from pipelines.inference import prompts
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import IMAGES

MOST_LOGPROBS = 20  # of a token, that vLLM tells


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
    module: ClassVar[str] = "pipelines.teaching.stage"
    estimator: ClassVar[str] = "pipelines.teaching.estimate"
    contract: ClassVar[int] = 4
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

    def prompt_digests(self) -> dict[str, str]:
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

    def resources(self) -> tuple[Workers, ...]:
        workers = self.engine.workers(f"clients of {self.endpoint}" if self.endpoint else "teacher engines")
        return (replace(workers, least=self.min_replicas, gpus=0 if self.endpoint else workers.gpus),)
