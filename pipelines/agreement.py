"""The resolved config of all stages -> what in it would end the flow late: one line each, that says what to type.

Nothing is read but settings, and where a model is at hand, its own small config files. Light: no engine is imported.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.resources import ClusterShape, lacking
from infra.stage import StageConfig
from pipelines.examination.config import ExaminationConfig
from pipelines.records import TAUGHT, Arm

PACKAGES = ("pipelines", "train", "serve")  # that resolve a recipe, and reach the jobs
# Beside image and answer: the chat template, a question, its options, and how to answer. Longer ones are rows that fail
# and are counted, so this is what most questions need and not what the longest does.
PROMPT_TOKENS = 256
TOKENS_PER_WORD = 1.5  # of English with technical terms
SLOWEST_TOKENS_PER_S = 10.0  # of one answer among many in a busy engine; a timeout that expects more ends good answers
_PATCH, _MERGE = 16, 2  # of Qwen3-VL's image processor: a token for each 32 x 32 pixels

Configs = Mapping[str, Any]


def findings(configs: Configs, shape: ClusterShape | None) -> Iterator[str]:
    """Everything that can be told from the settings alone.

    configs: stage name -> its config, in the flow's order, without the stages that a recipe has not.
    """
    yield from _paths(configs)
    yield from _inputs(configs)
    yield from _served(configs)
    yield from _distilled(configs)
    yield from _images(configs)
    yield from _tokens(configs)
    yield from _seconds(configs)
    yield from _room(configs, shape)


def _paths(configs: Configs) -> Iterator[str]:
    """Paths that mean something else where jobs run."""
    for name, config in configs.items():
        for material, path in config.materials().items():
            is_shipped = Path(path).parts[:1] in {(package,) for package in PACKAGES}
            if not Path(path).is_absolute() and Path(path).exists() and not is_shipped:
                yield f"{name}.{material}={path}: jobs run in another folder, so write {Path(path).absolute()}"


def _inputs(configs: Configs) -> Iterator[str]:
    """What a stage reads and none before it makes."""
    made: set[str] = set()
    for name, config in configs.items():
        if missing := set(config.inputs()) - made:
            yield f"{name} reads {min(missing)}, which no stage before it makes.{_arms_of(config)}"
        made |= set(config.outputs())


def _served(configs: Configs) -> Iterator[str]:
    """What is examined and not served."""
    examination, deploy, teach = configs["examination"], configs["deploy"], configs["teach"]
    if unserved := set(examination.inputs()) - set(deploy.inputs()):
        yield f"examination.plan asks {min(unserved)}, which deploy does not serve.{_arms_of(examination)}"
    asks_teacher = any(entry.partition("/")[0] == Arm.TEACHER for entry in examination.plan)
    if asks_teacher and deploy.teacher is None and not teach.endpoint:
        kept = json.dumps([entry for entry in examination.plan if entry.partition("/")[0] != Arm.TEACHER])
        yield (
            "examination.plan asks the teacher, and deploy.teacher is null: leave it out, "
            f"--set 'examination.plan={kept}'"
        )


def _arms_of(config: StageConfig) -> str:
    """What to type where a stage lacks something, most likely one of its arms."""
    wanted = [arm for arm in TAUGHT if any(name.endswith(f"/{arm}") for name in config.inputs())]
    return f" Name the arms once for all stages, in the place of --set: --arms {' '.join(wanted)}" if wanted else ""


def _distilled(configs: Configs) -> Iterator[str]:
    """What a student would learn from, and a teacher does not keep."""
    teach, fit = configs["teach"], configs["fit"]
    if fit.distillation_weight and not teach.top_logprobs:
        yield (
            f"fit.distillation_weight is {fit.distillation_weight:g}, and the teacher keeps nothing to learn from: "
            "--set teach.top_logprobs=8"
        )


def _images(configs: Configs) -> Iterator[str]:
    asked, limit = configs["questions"].max_pixels, configs["deploy"].max_image_pixels
    if asked > limit:
        yield (
            f"questions.max_pixels is {asked}, and the endpoint takes {limit}: "
            f"--set deploy.max_image_pixels={asked}, or ask for less."
        )


def _tokens(configs: Configs) -> Iterator[str]:
    """Contexts and answers that are too short for what another stage makes or asks."""
    teach, fit, deploy, examination = (configs[name] for name in ("teach", "fit", "deploy", "examination"))
    written = target_tokens(configs)
    taught = {entry.partition("/")[0] for entry in examination.plan} & _reasoning(fit.arms)
    if taught and examination.max_tokens < written:
        yield (
            f"examination.max_tokens is {examination.max_tokens}, and students learn to write up to {written} tokens "
            f"(teach.max_tokens, verify.max_words): --set examination.max_tokens={written}"
        )
    asks_teacher = any(entry.partition("/")[0] == Arm.TEACHER for entry in examination.plan)
    if asks_teacher and examination.tokens_for(Arm.TEACHER) < teach.max_tokens:
        yield (
            f"The teacher has {teach.max_tokens} tokens to teach (teach.max_tokens), and "
            f"{examination.tokens_for(Arm.TEACHER)} in the examination: "
            f"--set examination.teacher_max_tokens={teach.max_tokens}"
        )
    longest = max(examination.max_tokens, examination.tokens_for(Arm.TEACHER) if deploy.teacher is not None else 0)
    if longest > deploy.max_answer_tokens:
        yield (
            f"{_of_longest(examination, longest)} is {longest}, and the endpoint takes {deploy.max_answer_tokens}: "
            f"--set deploy.max_answer_tokens={longest}, or ask for less."
        )
    yield from _contexts(configs, written if _reasoning(fit.arms) else 0)


def _of_longest(examination: ExaminationConfig, longest: int) -> str:
    return "examination.max_tokens" if longest == examination.max_tokens else "examination.teacher_max_tokens"


def _contexts(configs: Configs, written: int) -> Iterator[str]:
    """Contexts that do not hold a prompt with its images, and the answer."""
    teach, fit, deploy, examination = (configs[name] for name in ("teach", "fit", "deploy", "examination"))
    asked = [(fit.base, fit.max_length, written, "fit.max_length")]
    student = deploy.student.max_model_len
    asked.append((fit.base, student, examination.max_tokens, "deploy.student.max_model_len"))
    if not teach.endpoint:
        asked.append((teach.teacher, teach.engine.max_model_len, teach.max_tokens, "teach.engine.max_model_len"))
    if deploy.teacher is not None:
        tokens = examination.tokens_for(Arm.TEACHER)
        asked.append((teach.teacher, deploy.teacher.max_model_len, tokens, "deploy.teacher.max_model_len"))
    for model, context, answer, field in asked:
        image = image_tokens(model, configs["questions"].max_pixels) * teach.engine.images_per_request
        needed = image + PROMPT_TOKENS + answer
        if context is not None and context < needed:
            yield (
                f"{field} is {context}, and a question's images have up to {image} tokens, a prompt {PROMPT_TOKENS}, "
                f"an answer {answer}: --set {field}={needed}, or lower questions.max_pixels."
            )


def _seconds(configs: Configs) -> Iterator[str]:
    """Times within which an answer of the length that is allowed is not written."""
    teach, deploy, examination = configs["teach"], configs["deploy"], configs["examination"]
    asked = [
        ("teach.timeout_s", teach.timeout_s, teach.max_tokens),
        ("examination.timeout_s", examination.timeout_s, examination.max_tokens),
        ("deploy.answer_timeout_s", deploy.answer_timeout_s, examination.max_tokens),
    ]
    if any(entry.partition("/")[0] == Arm.TEACHER for entry in examination.plan):
        tokens = examination.tokens_for(Arm.TEACHER)
        asked.append(("examination.teacher_timeout_s", examination.seconds_for(Arm.TEACHER), tokens))
        if deploy.teacher is not None:
            asked.append(("deploy.answer_timeout_s", deploy.answer_timeout_s, tokens))
    for field, seconds, tokens in asked:
        if seconds * SLOWEST_TOKENS_PER_S < tokens:
            enough = math.ceil(tokens / SLOWEST_TOKENS_PER_S)
            yield (
                f"{field} is {seconds:g}, too short for {tokens} tokens at {SLOWEST_TOKENS_PER_S:g} a second, as one "
                f"of many answers is written: --set {field}={enough}"
            )


def _room(configs: Configs, shape: ClusterShape | None) -> Iterator[str]:
    """Stages whose workers have no room on the cluster that the recipe names."""
    if shape is None:
        return
    for name, config in configs.items():
        if why := lacking(shape, config.resources()):
            advice = ""
            if name == "deploy" and config.teacher is not None:
                advice = ", or serve no teacher: --set deploy.teacher=null"
            yield f"{name} asks for {why}. Ask for less, or name a larger cluster: --set cluster.nodes=2{advice}"


def _reasoning(arms: tuple[str, ...]) -> set[str]:
    return {str(arm) for arm in arms} - {str(Arm.ANSWER_ONLY)}


def target_tokens(configs: Configs) -> int:
    """How long what a student learns to write may be: as the teacher may write, and verification lets pass."""
    longest: int = math.ceil(configs["verify"].max_words * TOKENS_PER_WORD)
    return min(int(configs["teach"].max_tokens), longest)


def image_tokens(model: str, max_pixels: int) -> int:
    """Tokens of an image of so many pixels, by the model's own processor where it is at hand, else as Qwen3-VL does."""
    patch, merge = _PATCH, _MERGE
    most: int = max_pixels
    with suppress(OSError, ValueError, KeyError, TypeError):
        stated: Any = _processor(Path(model))
        patch, merge = int(stated["patch_size"]), int(stated["merge_size"])
        most = min(max_pixels, int(stated["size"]["longest_edge"]))
    side = patch * merge
    return -(-most // (side * side))


def _processor(model: Path) -> Any:
    """What a model folder says of its image processor; newer ones say it together with all else."""
    whole = model / "processor_config.json"
    if whole.is_file():
        return json.loads(whole.read_text())["image_processor"]
    return json.loads((model / "preprocessor_config.json").read_text())
