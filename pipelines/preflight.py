"""The resolved settings of all stages -> contradictions between them that would stop the flow late, found beforehand.

Each finding is one line that says what to type. Nothing is read but settings and, where a model is on this machine, its
own small config files. Light: no engine is imported.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from infra.resources import ClusterShape, lacking
from infra.stage import StageConfig
from pipelines.records import TAUGHT, Arm

PACKAGES = ("pipelines", "train", "serve")  # those that resolve a recipe, and that are shipped to the jobs
# For the chat template, the question, its options, and how to answer. What most questions need, not the longest one: a
# question that needs more is a row that fails and is counted.
PROMPT_TOKENS = 256
TOKENS_PER_WORD = 1.5  # of English with technical terms
SLOWEST_TOKENS_PER_S = 10.0  # of one answer in a busy engine; a timeout that needs a higher speed ends good answers
_PATCH, _MERGE = 16, 2  # of Qwen3-VL's image processor: one token for 32 x 32 pixels

Configs = Mapping[str, Any]


def findings(configs: Configs, shape: ClusterShape | None) -> Iterator[str]:
    """Everything that can be found from the settings alone.

    configs: stage name -> its config, in the flow's order, without the stages that the recipe leaves out. shape: the
    cluster that the recipe names, if it does.
    """
    yield from _paths(configs)
    yield from _seeds(configs)
    yield from _inputs(configs)
    yield from _served(configs)
    yield from _logprobs(configs)
    yield from _images(configs)
    yield from _tokens(configs)
    yield from _timeouts(configs)
    yield from _resources(configs, shape)


def _paths(configs: Configs) -> Iterator[str]:
    """Relative paths: in the folder where jobs run, they mean something else."""
    for name, config in configs.items():
        for material, path in config.materials().items():
            is_shipped = Path(path).parts[:1] in {(package,) for package in PACKAGES}
            if not Path(path).is_absolute() and Path(path).exists() and not is_shipped:
                yield f"{name}.{material}={path}: jobs run in another folder, so write {Path(path).absolute()}"


def _seeds(configs: Configs) -> Iterator[str]:
    """Adapters that are fitted and not served or not asked, or the other way round."""
    seeds = {f"{stage}.seeds": configs[stage].seeds for stage in ("fit", "deploy", "examination")}
    if len(set(seeds.values())) > 1:
        told = ", ".join(f"{field}={num}" for field, num in seeds.items())
        most = max(seeds.values())
        yield f"{told}: name the number of adapters of each arm once, in the place of --set: --seeds {most}"


def _inputs(configs: Configs) -> Iterator[str]:
    """Artifacts that a stage reads and that no earlier stage makes."""
    made: set[str] = set()
    for name, config in configs.items():
        if missing := set(config.inputs()) - made:
            yield f"{name} reads {min(missing)}, which no stage before it makes.{_arms_to_type(config)}"
        made |= set(config.outputs())


def _served(configs: Configs) -> Iterator[str]:
    """Models that are examined and not served."""
    examination, deploy, teach = configs["examination"], configs["deploy"], configs["teach"]
    if unserved := set(examination.inputs()) - set(deploy.inputs()):
        yield f"examination.plan asks {min(unserved)}, which deploy does not serve.{_arms_to_type(examination)}"
    asks_teacher = any(entry.partition("/")[0] == Arm.TEACHER for entry in examination.plan)
    if asks_teacher and deploy.teacher is None and not teach.endpoint:
        kept = json.dumps([entry for entry in examination.plan if entry.partition("/")[0] != Arm.TEACHER])
        yield (
            "examination.plan asks the teacher, and deploy.teacher is null: leave it out, "
            f"--set 'examination.plan={kept}'"
        )


def _arms_to_type(config: StageConfig) -> str:
    """What to type where a stage lacks an artifact, which is most likely one of an arm."""
    wanted = [arm for arm in TAUGHT if any(name.endswith(f"/{arm}") for name in config.inputs())]
    return f" Name the arms once for all stages, in the place of --set: --arms {' '.join(wanted)}" if wanted else ""


def _logprobs(configs: Configs) -> Iterator[str]:
    """The teacher's log-probabilities, which a student would learn from and which the teacher does not keep."""
    teach, fit = configs["teach"], configs["fit"]
    if fit.distillation_weight and not teach.top_logprobs:
        yield (
            f"fit.distillation_weight is {fit.distillation_weight:g}, and the teacher keeps nothing to learn from: "
            "--set teach.top_logprobs=8"
        )


def _images(configs: Configs) -> Iterator[str]:
    """Images that are larger than the endpoint takes."""
    asked, limit = configs["questions"].max_pixels, configs["deploy"].max_image_pixels
    if asked > limit:
        yield (
            f"questions.max_pixels is {asked}, and the endpoint takes {limit}: "
            f"--set deploy.max_image_pixels={asked}, or ask for less."
        )


def _tokens(configs: Configs) -> Iterator[str]:
    """Lengths of contexts and answers that are too short for what another stage writes or asks for."""
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
        field = "examination.max_tokens" if longest == examination.max_tokens else "examination.teacher_max_tokens"
        yield (
            f"{field} is {longest}, and the endpoint takes {deploy.max_answer_tokens}: "
            f"--set deploy.max_answer_tokens={longest}, or ask for less."
        )
    yield from _contexts(configs, written if _reasoning(fit.arms) else 0)


def _contexts(configs: Configs, written: int) -> Iterator[str]:
    """Contexts that are too short for a prompt with its images and the answer.

    written: tokens that a student learns to write beyond the answer's line; 0 where no arm learns to reason.
    """
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


def _timeouts(configs: Configs) -> Iterator[str]:
    """Timeouts that are too short for an answer of the length that is allowed."""
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


def _resources(configs: Configs, shape: ClusterShape | None) -> Iterator[str]:
    """Stages that ask for more than the cluster that the recipe names has."""
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
    """The most tokens that a student learns to write: what the teacher may write and verification accepts."""
    longest: int = math.ceil(configs["verify"].max_words * TOKENS_PER_WORD)
    return min(int(configs["teach"].max_tokens), longest)


def image_tokens(model: str, max_pixels: int) -> int:
    """Tokens of an image with this number of pixels.

    By the settings of the model's own image processor where the model is on this machine, else by those of Qwen3-VL.
    """
    patch, merge = _PATCH, _MERGE
    pixels: int = max_pixels
    with suppress(OSError, ValueError, KeyError, TypeError):
        stated: Any = _processor(Path(model))
        patch, merge = int(stated["patch_size"]), int(stated["merge_size"])
        pixels = min(max_pixels, int(stated["size"]["longest_edge"]))
    return math.ceil(pixels / (patch * merge) ** 2)


def _processor(model: Path) -> Any:
    """The settings of a model folder's image processor; newer folders hold them inside another file."""
    whole = model / "processor_config.json"
    if whole.is_file():
        return json.loads(whole.read_text())["image_processor"]
    return json.loads((model / "preprocessor_config.json").read_text())
