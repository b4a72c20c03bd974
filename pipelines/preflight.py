"""The resolved settings of all stages -> contradictions between them that would stop the flow late, found beforehand.

Each finding is one line that says what to type. Nothing is read but settings and, where a model is on this machine, its
own small config files. Light: no engine is imported.
"""

import dataclasses
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
    yield from _prefilled(configs)
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
    if Arm.TEACHER in examination.by_arm() and deploy.teacher is None and not teach.endpoint:
        kept = json.dumps([str(entry) for entry in examination.entries() if entry.arm is not Arm.TEACHER])
        yield (
            "examination.plan asks the teacher, and deploy.teacher is null: leave it out, "
            f"--set 'examination.plan={kept}'"
        )


def _prefilled(configs: Configs) -> Iterator[str]:
    """Answers that requests begin, which the endpoint refuses unless it is told to take them."""
    served = _served_arms(configs)
    prefilled = [entry for entry in configs["examination"].entries() if entry.prefilled and entry.arm in served]
    if prefilled and not configs["deploy"].prefill:
        yield (
            f"examination.plan has {prefilled[0]}, and the endpoint takes no answer that a request begins: "
            "--set deploy.prefill=true (it demands a key, PRECEPTOR_API_KEY)"
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
    for arm in examination.by_arm():
        if arm in _reasoning(fit.arms) and (tokens := examination.tokens_for(arm)) < written:
            field, advice = _budget(examination, arm, max_tokens=written)
            yield (
                f"{field} is {tokens}, and students learn to write up to {written} tokens (teach.max_tokens, "
                f"verify.max_words): {advice}"
            )
            break
    asks_teacher = Arm.TEACHER in examination.by_arm()
    if asks_teacher and examination.tokens_for(Arm.TEACHER) < teach.max_tokens:
        _, advice = _budget(examination, Arm.TEACHER, max_tokens=teach.max_tokens, own=True)
        yield (
            f"The teacher has {teach.max_tokens} tokens to teach (teach.max_tokens), and "
            f"{examination.tokens_for(Arm.TEACHER)} in the examination: {advice}"
        )
    tokens_of = {arm: examination.tokens_for(arm) for arm in _served_arms(configs)}
    longest = max(tokens_of, key=lambda arm: tokens_of[arm], default=None)
    if longest is not None and (tokens := tokens_of[longest]) > deploy.max_answer_tokens:
        yield (
            f"{_budget(examination, longest, max_tokens=tokens)[0]} is {tokens}, and the endpoint takes "
            f"{deploy.max_answer_tokens}: --set deploy.max_answer_tokens={tokens}, or ask for less."
        )
    yield from _contexts(configs, written if _reasoning(fit.arms) else 0)


def _contexts(configs: Configs, written: int) -> Iterator[str]:
    """Contexts that are too short for a prompt with its images and the answer.

    written: tokens that a student learns to write beyond the answer's line; 0 where no arm learns to reason.
    """
    teach, fit, deploy, examination = (configs[name] for name in ("teach", "fit", "deploy", "examination"))
    asked = [(fit.base, fit.max_length, written, 0, "fit.max_length")]
    if not teach.endpoint:
        asked.append((teach.teacher, teach.engine.max_model_len, teach.max_tokens, 0, "teach.engine.max_model_len"))
    for arm in _served_arms(configs):
        is_teacher = arm is Arm.TEACHER
        model, engine = (teach.teacher, deploy.teacher) if is_teacher else (fit.base, deploy.student)
        shots = max(entry.num_shots for entry in examination.by_arm()[arm])
        field = f"deploy.{'teacher' if is_teacher else 'student'}"
        asked.append((model, engine.max_model_len, examination.tokens_for(arm), shots, f"{field}.max_model_len"))
        images = teach.engine.images_per_request * (1 + shots)
        if shots and engine.images_per_request < images:
            yield (
                f"{field}.images_per_request is {engine.images_per_request}, and {shots} examples and a question have "
                f"up to {images}: --set {field}.images_per_request={images}"
            )
    told: dict[str, int] = {}
    for model, context, answer, shots, field in asked:
        image = image_tokens(model, configs["questions"].max_pixels) * teach.engine.images_per_request * (1 + shots)
        prompt = PROMPT_TOKENS * (1 + shots)
        needed = image + prompt + answer
        if context is not None and max(context, told.get(field, 0)) < needed:
            told[field] = needed
            yield (
                f"{field} is {context}, and a question's images have up to {image} tokens, a prompt {prompt}, "
                f"an answer {answer}: --set {field}={needed}, or lower questions.max_pixels."
            )


def _timeouts(configs: Configs) -> Iterator[str]:
    """Timeouts that are too short for an answer of the length that is allowed."""
    teach, deploy, examination = configs["teach"], configs["deploy"], configs["examination"]
    asked = [("teach.timeout_s", "", teach.timeout_s, teach.max_tokens)]
    if reread := configs["verify"].reread:
        asked.append(("verify.reread.timeout_s", "", reread.timeout_s, reread.max_tokens))
    for arm in examination.by_arm():
        tokens = examination.tokens_for(arm)
        field, advice = _budget(examination, arm, timeout_s=math.ceil(tokens / SLOWEST_TOKENS_PER_S))
        asked.append((field, advice, examination.seconds_for(arm), tokens))
    if tokens_of := [examination.tokens_for(arm) for arm in _served_arms(configs)]:
        asked.append(("deploy.answer_timeout_s", "", deploy.answer_timeout_s, max(tokens_of)))
    longest = {field: rest for field, *rest in sorted(asked, key=lambda each: each[3])}
    for field, (advice, seconds, tokens) in longest.items():
        if seconds * SLOWEST_TOKENS_PER_S < tokens:
            enough = math.ceil(tokens / SLOWEST_TOKENS_PER_S)
            yield (
                f"{field} is {seconds:g}, too short for {tokens} tokens at {SLOWEST_TOKENS_PER_S:g} a second, as one "
                f"of many answers is written: {advice or f'--set {field}={enough}'}"
            )


def _served_arms(configs: Configs) -> list[Arm]:
    """The arms that are asked at the endpoint that the flow deploys."""
    asked = configs["examination"].by_arm()
    return [arm for arm in asked if arm is not Arm.TEACHER or configs["deploy"].teacher is not None]


def _budget(examination: Any, arm: Arm, *, own: bool = False, **changes: int) -> tuple[str, str]:
    """The field that says what an answer of an arm may take, and what to type to change it.

    own: even where the arm has the budget of all others, it alone is changed. changes: one field of a budget.
    """
    ((name, value),) = changes.items()
    budgets = {
        each.arm: {k: v for k, v in dataclasses.asdict(each).items() if v is not None} for each in examination.budgets
    }
    if name not in budgets.get(arm, {}) and not own:
        return f"examination.{name}", f"--set examination.{name}={value}"
    budgets[arm] = budgets.get(arm, {"arm": arm}) | changes
    return f"examination.budgets[{arm}].{name}", f"--set 'examination.budgets={json.dumps(list(budgets.values()))}'"


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


def _reasoning(arms: tuple[str, ...]) -> set[Arm]:
    return {Arm(arm) for arm in arms} - {Arm.ANSWER_ONLY}


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
