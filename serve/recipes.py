"""How models are served, recipe by recipe."""

import dataclasses
from typing import ClassVar

from infra.stage import StageConfig
from pipelines.records import Arm

_LAST_PORT = 65535


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One vLLM engine and the resources of each of its replicas.

    gpus: 0 runs on the CPU; more than one splits the model by tensor parallelism. cpus: also the engine's OpenMP
    threads when it runs on the CPU. max_model_len: tokens of a request and its answer; None takes all that the model
    was made for. max_num_seqs: answers that are written at the same time. kv_cache_gib: CPU memory
    for attention keys and values; None takes memory_share of the machine instead, as a GPU does.
    """

    replicas: int = 1
    cpus: int = 1
    gpus: int = 0
    max_model_len: int | None = None
    max_num_seqs: int = 32
    kv_cache_gib: float | None = 0.5
    memory_share: float = 0.9
    enforce_eager: bool = True
    dtype: str = "auto"
    images_per_request: int = 1

    def __post_init__(self) -> None:
        for name in ("replicas", "cpus", "max_model_len", "max_num_seqs", "images_per_request"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.gpus < 0:
            raise ValueError("gpus must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeployConfig(StageConfig):
    """One endpoint for the base student, an adapter for each arm, and the teacher.

    host: anything but loopback demands an API key. image_domains: hosts whose image URLs the endpoint may fetch; none
    by default. start_timeout_s: for the engines to be up, and then for every model's first answer.
    """

    stage: ClassVar[str] = "deploy"
    module: ClassVar[str] = "serve.app"
    service: ClassVar[bool] = True

    host: str = "127.0.0.1"
    port: int = 8000
    arms: tuple[str, ...] = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)
    student: EngineConfig = EngineConfig()
    teacher: EngineConfig = EngineConfig()
    image_domains: tuple[str, ...] = ()
    start_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 0 < self.port <= _LAST_PORT:
            raise ValueError(f"port must lie between 1 and {_LAST_PORT}")
        trained = (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER)
        if unknown := [arm for arm in self.arms if arm not in trained]:
            raise ValueError(f"arms: {unknown[0]!r} has no adapter; adapters are {', '.join(trained)}")

    def inputs(self) -> tuple[str, ...]:
        """The rationales name the teacher; the adapters name the base student."""
        return ("rationales", *(f"adapters/{arm}" for arm in self.arms))

    def hardware(self) -> str:
        """What the engines of student and teacher ask the cluster for."""
        cpus = sum(engine.replicas * engine.cpus for engine in (self.student, self.teacher))
        gpus = sum(engine.replicas * engine.gpus for engine in (self.student, self.teacher))
        return f"{cpus} CPUs, {gpus} GPUs"

    def outputs(self) -> dict[str, StageConfig]:
        """The endpoint's address and its models' names."""
        return {"endpoint": self}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeRecipe:
    """This package's part of a recipe."""

    deploy: DeployConfig


def pocket() -> ServeRecipe:
    """The pocket models on two CPU cores."""
    return ServeRecipe(deploy=DeployConfig())


def pmc_vqa_8xh200() -> ServeRecipe:
    """Qwen3-VL-2B on one GPU beside its 235B teacher (FP8) on four; published settings, not yet run by us."""
    student = EngineConfig(cpus=8, gpus=1, max_model_len=8192, max_num_seqs=256, kv_cache_gib=None, enforce_eager=False)
    return ServeRecipe(
        deploy=DeployConfig(student=student, teacher=dataclasses.replace(student, gpus=4), start_timeout_s=3600)
    )
