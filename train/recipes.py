"""Recipes of `train`: which base, which arms, and the numbers of LoRA fitting. Light: no engine is imported here."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le, Lt

from infra.resources import Workers
from infra.stage import StageConfig
from pipelines.records import ARMS, IMAGES, TAUGHT, Arm, adapter_of, check_arms

POCKET_BASE = "train/pocket/base"
_SHARDED_WEIGHTS = 3  # the stage of ZeRO


@dataclass(frozen=True, kw_only=True)
class FitConfig(StageConfig):
    """Fit the adapters of each arm, all of them on the same base, with the same settings and of the same questions.

    seeds: how many adapters of each arm; they differ in their seed, which is `seed` for the first, and one more for
    each further one: it decides how an adapter begins, and the order of the examples. compared_arms: arms beside `arms`
    whose examples decide too which questions are learnt: one that cannot be learnt in one arm is left out of all.
    base: model folder, or a hub's model id. revision: of a hub's model; the same one is served.
    num_steps: updates, each of `batch_size` examples over all workers. max_length: tokens of a whole example with its
    images; questions with longer examples are left out and counted. tokens_per_pack: tokens of one forward pass; a rank
    with more accumulates gradients over several packs. warmup_share: share of the steps in which the learning rate
    rises linearly; then it falls to zero on a cosine.
    precision: of weights and activations. gradient_checkpointing: save memory by computing each layer twice.
    zero_stage, offload_optimizer: how DeepSpeed shards, and whether the optimizer state is in host memory.
    num_workers, cpus_per_worker, gpus_per_worker: what the fit asks Ray for. min_workers: with how few it may also
    run; None: with no fewer. gpu_memory_gib: of each GPU; a fit that needs more is refused before it starts.
    max_restarts: how often workers that died are started again. checkpoint_every, evaluate_every: steps.
    image_cache_gib: host memory of each worker for cached features of the frozen vision encoder; useful when the same
    worker gets an image again.
    validation_share: share of the questions that is held out, where they have no validation split of their own, as
    whole articles, figures and images. patience: stop after this many evaluations without a lower validation loss, and
    save the best adapter; None: take all steps and save the last one.
    distillation_weight: weight of the forward KL divergence from the teacher, beside 1 for the cross entropy, at target
    tokens with the teacher's top-k (`teach.top_logprobs`). expected_examples_per_s: of all workers, for the estimate
    of a dry run as long as no fit was measured.
    """

    stage: ClassVar[str] = "fit"
    module: ClassVar[str] = "train.fit"
    estimator: ClassVar[str] = "train.estimate"
    contract: ClassVar[int] = 4
    digests_itself: ClassVar[tuple[str, ...]] = IMAGES
    hub_materials: ClassVar[tuple[str, ...]] = ("base",)
    base: str
    revision: str | None = None
    arms: tuple[Arm, ...] = ARMS
    compared_arms: tuple[Arm, ...] = ()
    lora_rank: Annotated[int, Gt(0)] = 16
    lora_alpha: Annotated[int, Gt(0)] = 32
    learning_rate: Annotated[float, Gt(0)]
    warmup_share: Annotated[float, Ge(0), Lt(1)] = 0.05
    max_grad_norm: Annotated[float, Gt(0)] = 1.0
    batch_size: Annotated[int, Gt(0)]
    num_steps: Annotated[int, Gt(0)]
    max_length: Annotated[int, Gt(0)]
    tokens_per_pack: Annotated[int, Gt(0)]
    precision: Literal["fp32", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    zero_stage: Annotated[int, Ge(1), Le(3)] = 2
    offload_optimizer: bool = False
    seed: int = 20
    seeds: Annotated[int, Gt(0)] = 1
    num_workers: Annotated[int, Gt(0)]
    min_workers: Annotated[int, Gt(0)] | None = None
    cpus_per_worker: Annotated[int, Gt(0)]
    gpus_per_worker: Annotated[int, Ge(0), Le(1)]
    gpu_memory_gib: Annotated[float, Gt(0)] | None = None
    max_restarts: Annotated[int, Ge(0)] = 3
    checkpoint_every: Annotated[int, Gt(0)] = 50
    image_cache_gib: Annotated[float, Ge(0)]
    validation_share: Annotated[float, Ge(0), Lt(1)] = 0.0
    evaluate_every: Annotated[int, Gt(0)] = 50
    patience: Annotated[int, Gt(0)] | None = None
    distillation_weight: Annotated[float, Ge(0)] = 0.0
    expected_examples_per_s: Annotated[float, Gt(0)] | None = None

    def __post_init__(self) -> None:
        check_arms(self.arms)
        if self.compared_arms:
            check_arms(self.compared_arms)
        if self.tokens_per_pack < self.max_length:
            raise ValueError(
                f"tokens_per_pack {self.tokens_per_pack} is less than max_length {self.max_length}: the longest "
                "examples would fit in no pack"
            )
        if self.batch_size < self.num_workers:
            raise ValueError(f"batch_size {self.batch_size} is less than num_workers {self.num_workers}")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers {self.min_workers} is more than num_workers {self.num_workers}")
        if self.zero_stage == _SHARDED_WEIGHTS:
            raise ValueError(
                "zero_stage 3 is refused: it has been seen to leave lora_B at zero on Qwen3-VL. A LoRA's optimizer is "
                "small; where the frozen weights do not fit on a GPU, take a smaller base or offload_optimizer"
            )
        if self.patience is not None and not self.validation_share:
            raise ValueError("patience needs a validation_share above 0")

    def outputs(self) -> dict[str, StageConfig]:
        return {adapter_of(arm, seed): self._of(arm, seed) for seed in range(self.seeds) for arm in self.arms}

    def _of(self, arm: Arm, number: int) -> "FitConfig":
        """What one adapter depends on. expected_examples_per_s is for dry runs alone, and so no part of it."""
        others = {*self.arms, *self.compared_arms} - {arm}
        compared = tuple(other for other in TAUGHT if other in others)
        seed = self.seed + number
        return replace(self, arms=(arm,), compared_arms=compared, seed=seed, seeds=1, expected_examples_per_s=None)

    def inputs(self) -> tuple[str, ...]:
        distilled = ("rationales",) if self.distillation_weight else ()
        arms = dict.fromkeys((*self.arms, *self.compared_arms))
        return ("questions", *distilled, *(f"examples/{arm}" for arm in arms))

    def materials(self) -> dict[str, str]:
        return {"base": self.base}

    def revisions(self) -> dict[str, str | None]:
        return {"base": self.revision}

    def rehearsed(self, models: Path, num_questions: int) -> "FitConfig":
        """Two steps of the same arithmetic on one worker without a GPU."""
        return replace(
            self,
            base=str(models / "base"),
            revision=None,
            num_steps=2,
            seeds=1,
            batch_size=min(self.batch_size, 8),
            precision="fp32",
            offload_optimizer=False,
            num_workers=1,
            min_workers=None,
            cpus_per_worker=1,
            gpus_per_worker=0,
            gpu_memory_gib=None,
            image_cache_gib=min(self.image_cache_gib, 0.1),
            distillation_weight=0.0,
        )

    def resources(self) -> tuple[Workers, ...]:
        return (
            Workers(
                what="workers",
                count=self.num_workers,
                cpus=self.cpus_per_worker,
                gpus=self.gpus_per_worker,
                least=self.min_workers,
            ),
        )


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
            num_steps=200,
            max_length=512,
            tokens_per_pack=4096,
            precision="fp32",
            num_workers=2,
            cpus_per_worker=1,
            gpus_per_worker=0,
            image_cache_gib=0.5,
        )
    )


def _qwen3_vl(size: str, **settings: Any) -> TrainRecipe:
    """Qwen3-VL of a size, with settings as in published LoRA work. The 2B was run on an H100, with random weights."""
    common: dict[str, Any] = {
        "base": f"Qwen/Qwen3-VL-{size}-Instruct",
        "lora_rank": 32,
        "lora_alpha": 64,
        "learning_rate": 2e-4,
        "batch_size": 64,
        "num_steps": 2000,
        "max_length": 3072,  # an image of 1 Mpx has 1,024 tokens, and a rationale of 800 words 1,200
        "validation_share": 0.01,
        "evaluate_every": 200,
        "seeds": 3,
        "num_workers": 1,
        "cpus_per_worker": 8,
        "gpus_per_worker": 1,
        "image_cache_gib": 4.0,  # an image of 1,024 tokens takes 16 MiB, and few images come twice in 2,000 steps
    }
    return TrainRecipe(fit=FitConfig(**(common | settings)))


def qwen3_vl_2b_1x32gb() -> TrainRecipe:
    """The 2B on one GPU of 32 GB."""
    return _qwen3_vl("2B", tokens_per_pack=8192, gpu_memory_gib=31.0)


def qwen3_vl_2b_1x80gb() -> TrainRecipe:
    """The 2B on one GPU of 80 GB."""
    return _qwen3_vl("2B", tokens_per_pack=16384, gpu_memory_gib=79.0)


def qwen3_vl_2b_8x80gb() -> TrainRecipe:
    """The 2B on eight GPUs of 80 GB; with fewer GPUs after a loss, but at least four."""
    return _qwen3_vl("2B", tokens_per_pack=8192, gpu_memory_gib=79.0, num_workers=8, min_workers=4)


def qwen3_vl_4b_1x32gb() -> TrainRecipe:
    """The 4B on one GPU of 32 GB, with gradient checkpointing."""
    return _qwen3_vl("4B", tokens_per_pack=16384, gpu_memory_gib=31.0, gradient_checkpointing=True)


def qwen3_vl_4b_1x80gb() -> TrainRecipe:
    """The 4B on one GPU of 80 GB."""
    return _qwen3_vl("4B", tokens_per_pack=8192, gpu_memory_gib=79.0)


def qwen3_vl_4b_8x80gb() -> TrainRecipe:
    """The 4B on eight GPUs of 80 GB; with fewer GPUs after a loss, but at least four."""
    return _qwen3_vl("4B", tokens_per_pack=8192, gpu_memory_gib=79.0, num_workers=8, min_workers=4)


pmc_vqa_8xh200 = qwen3_vl_2b_8x80gb

# These recipes differ in the teacher only; the fit is the same.
pmc_vqa_8xh200_thinking = pmc_vqa_8xh200_bf16 = pmc_vqa_8xh100_32b = pmc_vqa_8xh200
