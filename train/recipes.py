"""Recipes of `train`: which base, which arms, and the numbers of LoRA fitting. Light: no engine is imported here."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Lt

from infra.stage import StageConfig
from pipelines.records import Arm
from pipelines.settings import ARMS

POCKET_BASE = "train/pocket/base"


@dataclass(frozen=True, kw_only=True)
class FitConfig(StageConfig):
    """Fit one adapter for each arm, all of them on the same base and with the same settings.

    base: model folder, or a hub's model id. num_steps: updates; each sees `batch_size` examples over all workers.
    micro_batch_size: examples of one worker's forward pass; a share of more is accumulated. max_length: tokens of a
    whole example with its image's; longer examples are left out and counted, never cut. warmup_share: share of the
    steps in which the learning rate rises; then it falls to zero on a cosine. image_cache_gib: host memory of each
    worker for what the frozen vision tower sees, which is computed once for every image that fits.
    """

    stage: ClassVar[str] = "fit"
    module: ClassVar[str] = "train.fit"
    hub_materials: ClassVar[tuple[str, ...]] = ("base",)
    base: str
    arms: tuple[Arm, ...] = ARMS
    lora_rank: Annotated[int, Gt(0)] = 16
    lora_alpha: Annotated[int, Gt(0)] = 32
    learning_rate: Annotated[float, Gt(0)]
    warmup_share: Annotated[float, Ge(0), Lt(1)] = 0.05
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    batch_size: Annotated[int, Gt(0)]
    micro_batch_size: Annotated[int, Gt(0)]
    num_steps: Annotated[int, Gt(0)]
    max_length: Annotated[int, Gt(0)]
    precision: Literal["fp32", "bf16"] = "bf16"
    seed: int = 20
    num_workers: Annotated[int, Gt(0)]
    cpus_per_worker: Annotated[int, Gt(0)]
    gpus_per_worker: Annotated[int, Ge(0)]
    image_cache_gib: Annotated[float, Ge(0)]

    def __post_init__(self) -> None:
        if self.batch_size % (self.num_workers * self.micro_batch_size):
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of num_workers x micro_batch_size "
                f"({self.num_workers} x {self.micro_batch_size})"
            )

    def outputs(self) -> dict[str, StageConfig]:
        return {f"adapters/{arm}": replace(self, arms=(arm,)) for arm in self.arms}

    def inputs(self) -> tuple[str, ...]:
        return ("questions", *(f"examples/{arm}" for arm in self.arms))

    def materials(self) -> dict[str, str]:
        return {"base": self.base}

    def hardware(self) -> str:
        return f"{self.num_workers} workers of {self.cpus_per_worker} CPU and {self.gpus_per_worker} GPU"


@dataclass(frozen=True, kw_only=True)
class TrainRecipe:
    """The stages of this package."""

    fit: FitConfig


def pocket() -> TrainRecipe:
    """The embedded student of 1.6 million parameters, on two CPU cores."""
    return TrainRecipe(
        fit=FitConfig(
            base=POCKET_BASE,
            learning_rate=2e-3,
            batch_size=32,
            micro_batch_size=16,
            num_steps=200,
            max_length=512,
            precision="fp32",
            num_workers=2,
            cpus_per_worker=1,
            gpus_per_worker=0,
            image_cache_gib=0.5,
        )
    )


def pmc_vqa_8xh200() -> TrainRecipe:
    """Qwen3-VL-2B on one node of eight GPUs; published settings, not yet run by us."""
    return TrainRecipe(
        fit=FitConfig(
            base="Qwen/Qwen3-VL-2B-Instruct",
            lora_rank=32,
            lora_alpha=64,
            learning_rate=2e-4,
            batch_size=64,
            micro_batch_size=8,
            num_steps=2000,
            max_length=2048,
            num_workers=8,
            cpus_per_worker=8,
            gpus_per_worker=1,
            image_cache_gib=32.0,
        )
    )


# The teacher's part of these recipes varies; what is taught, and on what, does not.
pmc_vqa_8xh200_thinking = pmc_vqa_8xh200_bf16 = pmc_vqa_8xh100_32b = pmc_vqa_8xh200
