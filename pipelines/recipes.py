"""Recipes of `pipelines`: each is one complete config of its stages. Light: no engine is imported here."""

import dataclasses
from dataclasses import dataclass

from infra.resources import ClusterShape
from pipelines.examination.config import Budget, ExaminationConfig
from pipelines.examples import ComposeConfig
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.curation import CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.sources.pocket import DrawConfig
from pipelines.questions.sources.source import SourceConfig
from pipelines.records import Arm, Split
from pipelines.report.config import KnownLabelNoise, ReportConfig
from pipelines.teaching.config import TeachConfig
from pipelines.verification.config import VerifyConfig

POCKET_TEACHER = "train/pocket/teacher"
POCKET_ENGINE = EngineConfig(
    max_model_len=512,
    max_num_seqs=128,
    dtype="float32",
    enforce_eager=True,
    # When a prompt is cut in chunks, vLLM rewinds the generator of a seeded request, which CPU generators refuse.
    chunked_prefill=False,
    kv_cache_gib=1.0,
)


@dataclass(frozen=True, kw_only=True)
class PipelinesRecipe:
    """The stages of `pipelines` in a flow; draw is None when the questions come from the world.

    cluster: the one that the whole recipe is made for; what its stages ask for is compared with it before any runs.
    None compares nothing.
    """

    cluster: ClusterShape | None = None
    draw: DrawConfig | None
    questions: QuestionsConfig
    teach: TeachConfig
    verify: VerifyConfig
    compose: ComposeConfig
    examination: ExaminationConfig
    report: ReportConfig


PLAN = (
    "zero_shot/real",
    "answer_only/real",
    "rationale_then_answer/real",
    "rationale_then_answer/blank",
    "rationale_then_answer/shuffled",
    "teacher/real",
)

# Base and students under the same conditions, and the base in the words of both, so that a gain has something to be
# held against; whether answers flip when they are asked for again is seen in a share of the questions.
LIKE_WITH_LIKE = (
    *(
        f"{asked}/{condition}"
        for asked in ("zero_shot", "zero_shot+rationale", "answer_only", "rationale_then_answer")
        for condition in ("real", "blank", "shuffled")
    ),
    "teacher/real",
)
_REPEAT_SHARE = 0.05

# Of the files that carry this name, only test_clean.csv was checked by hand.
_TEST_2_NOISE = KnownLabelNoise(
    file="test_2.csv", share=0.34, source="an audit that found 31 to 37 %, as a third party reports it"
)

# All drawn questions ask the same, so a text says nothing about which question it is.
_POCKET_CURATION = CurationConfig(decontaminate_by=(Level.IMAGE, Level.PERCEPTUAL))

_POCKET_NOTES = (
    "The models of the pocket recipe have about two million parameters and have seen drawn micrographs alone. On any "
    "other questions they answer at random: the figures then say that the flow works, and nothing about the questions, "
    "their images or other models.",
    "The rationale arm sees more supervised tokens per question than the answer-only arm.",
    "Questions, prompts and order are the same in two runs with one seed. The engines add floating-point numbers in an "
    "order that depends on what is in flight, so a near tie between two tokens can fall differently in another run.",
)


def pocket() -> PipelinesRecipe:
    """The whole flow on a machine without a GPU: drawn micrographs, models of two million parameters, real engines."""
    return PipelinesRecipe(
        draw=DrawConfig(),
        questions=QuestionsConfig(curation=_POCKET_CURATION),
        teach=TeachConfig(
            teacher=POCKET_TEACHER,
            engine=POCKET_ENGINE,
            num_rationales=2,
            final_line=False,  # both were trained from scratch on prompts without it
            temperature=1.0,
            max_tokens=128,
            grounding_share=0.2,
            expected_output_tokens=31,
            max_failed_share=1.0,  # of questions that are not the drawn ones it understands none
        ),
        verify=VerifyConfig(min_accepted=0),
        compose=ComposeConfig(),
        examination=ExaminationConfig(plan=PLAN, final_line=False, max_tokens=128),
        report=ReportConfig(notes=_POCKET_NOTES),
    )


def pmc_vqa_8xh200() -> PipelinesRecipe:
    """PMC-VQA on nodes of eight GPUs: Qwen3-VL-235B-A22B-Instruct (FP8) teaches, two engines of four GPUs a node."""
    return _pmc_vqa(_instruct("Qwen/Qwen3-VL-235B-A22B-Instruct-FP8", dataclasses.replace(_QWEN_235B_FP8, replicas=2)))


def pmc_vqa_8xh200_thinking() -> PipelinesRecipe:
    """The same with Qwen3-VL-235B-A22B-Thinking (FP8), whose thoughts are kept beside what it says in the end."""
    teach = TeachConfig(
        teacher="Qwen/Qwen3-VL-235B-A22B-Thinking-FP8",
        engine=dataclasses.replace(_QWEN_235B_FP8, replicas=2, max_model_len=16384),
        num_rationales=3,
        temperature=1.0,
        top_p=0.95,
        top_k=20,
        max_tokens=8192,
        timeout_s=3600.0,
        grounding_share=0.1,
        expected_output_tokens=2000,
    )
    return _pmc_vqa(teach)


def pmc_vqa_8xh200_bf16() -> PipelinesRecipe:
    """The same with the 235B teacher in bf16: one engine over all eight GPUs of a node."""
    recipe = _pmc_vqa(_instruct("Qwen/Qwen3-VL-235B-A22B-Instruct", dataclasses.replace(_QWEN_235B_FP8, gpus=8)))
    plan = tuple(entry for entry in recipe.examination.plan if entry != "teacher/real")
    note = (
        "The teacher is not examined: it takes all eight GPUs of the node, and has no room beside the student. On two "
        "nodes, or from an endpoint, it is (deploy.teacher, examination.plan)."
    )
    return dataclasses.replace(
        recipe,
        examination=dataclasses.replace(recipe.examination, plan=plan),
        report=dataclasses.replace(recipe.report, notes=(note,)),
    )


def pmc_vqa_8xh100_32b() -> PipelinesRecipe:
    """PMC-VQA with a teacher of 32B on one node: four engines of two GPUs each."""
    engine = dataclasses.replace(_QWEN_235B_FP8, replicas=4, gpus=2)
    return _pmc_vqa(_instruct("Qwen/Qwen3-VL-32B-Instruct", engine), _8XH100)


# FP8 weights divide over four GPUs, not over eight, and two engines of four do nearly twice the work of one of eight.
_QWEN_235B_FP8 = EngineConfig(cpus=4, gpus=4, max_model_len=8192, max_num_seqs=256, mm_encoder_tp_mode="data")


def _instruct(teacher: str, engine: EngineConfig) -> TeachConfig:
    """Three rationales of each question, with the sampling that Qwen names for its Instruct models."""
    return TeachConfig(
        teacher=teacher, engine=engine, num_rationales=3, temperature=0.7, top_p=0.8, top_k=20, grounding_share=0.1
    )


_8XH200 = ClusterShape(cpus=96, gpus=8, gpu_memory_gib=139.0)
_8XH100 = ClusterShape(cpus=96, gpus=8, gpu_memory_gib=79.0)


def _pmc_vqa(teach: TeachConfig, cluster: ClusterShape = _8XH200) -> PipelinesRecipe:
    """PMC-VQA as it is released, taught by this teacher."""
    return dataclasses.replace(
        pocket(),
        cluster=cluster,
        draw=None,
        questions=QuestionsConfig(
            folder="/data/pmc_vqa",
            sources=(
                SourceConfig(reader="pmc_vqa", table="train.csv", images="images.zip", split=Split.TRAIN),
                SourceConfig(reader="pmc_vqa", table="test_clean.csv", images="images.zip", split=Split.TEST),
            ),
            curation=CurationConfig(decontaminate_by=tuple(Level), validation_share=0.01, shuffle_options=True),
        ),
        teach=teach,
        verify=VerifyConfig(),
        examination=ExaminationConfig(
            plan=LIKE_WITH_LIKE,
            seeds=3,
            repeat_share=_REPEAT_SHARE,
            concurrency=256,
            max_tokens=2048,
            timeout_s=600.0,
            # As many tokens as it has when it teaches, and as long.
            budgets=(Budget(arm=Arm.TEACHER, max_tokens=teach.max_tokens, timeout_s=teach.timeout_s),),
        ),
        report=ReportConfig(title="Preceptor, PMC-VQA", label_noise=(_TEST_2_NOISE,)),
    )
