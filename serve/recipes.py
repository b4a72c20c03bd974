"""How models are served, recipe by recipe."""

import dataclasses
from pathlib import Path
from typing import Annotated, ClassVar

from annotated_types import Gt

from infra.errors import ConfigError
from infra.resources import Workers
from infra.stage import StageConfig
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import ARMS, IMAGES, Arm, adapters_of, check_arms

_LAST_PORT = 65535
POCKET_ENGINE = EngineConfig(max_num_seqs=32, enforce_eager=True, kv_cache_gib=0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployConfig(StageConfig):
    """One endpoint for the base student, the adapters of each arm, and the teacher.

    seeds: how many adapters each arm has, each fitted with a seed of its own. teacher: None where the cluster is too
    small for both, or another endpoint has it. host: anything but loopback demands an API key. image_domains: hosts
    whose image URLs the endpoint may fetch; none by default. max_image_pixels: of each image in a request.
    max_answer_tokens: of all answers to a request together. prefill: whether a request may begin its answer, as an
    examination of reasoning does; it demands a key. answer_timeout_s: for a whole answer. start_timeout_s: for the
    engines to be up, and then for every model's first answer.
    """

    stage: ClassVar[str] = "deploy"
    module: ClassVar[str] = "serve.app"
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    service: ClassVar[bool] = True

    host: str = "127.0.0.1"
    port: int = 8000
    arms: tuple[Arm, ...] = ARMS
    seeds: Annotated[int, Gt(0)] = 1
    student: EngineConfig
    teacher: EngineConfig | None
    image_domains: tuple[str, ...] = ()
    max_image_pixels: Annotated[int, Gt(0)] = 1 << 22
    max_answer_tokens: Annotated[int, Gt(0)] = 4096
    prefill: bool = False
    answer_timeout_s: Annotated[float, Gt(0)] = 600.0
    start_timeout_s: Annotated[float, Gt(0)] = 600.0

    def __post_init__(self) -> None:
        check_arms(self.arms)
        if not 0 < self.port <= _LAST_PORT:
            raise ValueError(f"port must lie between 1 and {_LAST_PORT}")

    def check(self) -> None:
        """Raise ConfigError for a missing API key now, and not after everything is taught and fitted."""
        from serve.api.access_control import required_key_digest  # brings an HTTP server

        if required_key_digest(self.host) is None and self.prefill:
            raise ConfigError(
                "deploy.prefill lets requests begin their own answers, for those who have the key alone: export "
                "one as PRECEPTOR_API_KEY, or --set deploy.prefill=false"
            )

    def inputs(self) -> tuple[str, ...]:
        """Questions give the number of images in a request, rationales name the teacher, and adapters the base."""
        return ("questions", "rationales", *adapters_of(self.arms, self.seeds))

    def resources(self) -> tuple[Workers, ...]:
        """The engines of student and teacher."""
        student = self.student.workers("student engines")
        return (student,) if self.teacher is None else (student, self.teacher.workers("teacher engines"))

    def rehearsed(self, models: Path, num_questions: int) -> "DeployConfig":
        """The same engines for small models, on loopback."""
        teacher = None if self.teacher is None else self.teacher.on_cpu()
        return dataclasses.replace(self, host="127.0.0.1", seeds=1, student=self.student.on_cpu(), teacher=teacher)

    def outputs(self) -> dict[str, StageConfig]:
        """The endpoint's address and its models' names."""
        return {"endpoint": self}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeRecipe:
    """This package's part of a recipe."""

    deploy: DeployConfig


def pocket() -> ServeRecipe:
    """The pocket models on two CPU cores."""
    return ServeRecipe(deploy=DeployConfig(student=POCKET_ENGINE, teacher=POCKET_ENGINE))


def pmc_vqa_8xh200() -> ServeRecipe:
    """Qwen3-VL-2B on one GPU beside its 235B teacher (FP8) on four; published settings, not yet run by us."""
    return _beside_teacher(gpus=4)


def pmc_vqa_8xh200_thinking() -> ServeRecipe:
    """The same beside the Thinking teacher, whose answers are longer."""
    return _beside_teacher(gpus=4, max_model_len=16384)


def pmc_vqa_8xh200_bf16() -> ServeRecipe:
    """The student alone: the teacher in bf16 takes all eight GPUs of a node."""
    return ServeRecipe(deploy=dataclasses.replace(_beside_teacher(gpus=8).deploy, teacher=None))


def pmc_vqa_8xh100_32b() -> ServeRecipe:
    """The same beside a teacher of 32B on two."""
    return _beside_teacher(gpus=2)


def _beside_teacher(gpus: int, max_model_len: int = 8192) -> ServeRecipe:
    student = EngineConfig(cpus=8, gpus=1, max_model_len=8192)
    teacher = dataclasses.replace(student, gpus=gpus, max_model_len=max_model_len)
    deploy = DeployConfig(
        seeds=3,
        student=student,
        teacher=teacher,
        max_answer_tokens=max_model_len,
        answer_timeout_s=1800.0,
        start_timeout_s=3600.0,
    )
    return ServeRecipe(deploy=deploy)
