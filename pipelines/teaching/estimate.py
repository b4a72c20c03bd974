"""Open requests -> what they will cost: a sample of them is counted, before any engine or GPU is asked for.

Every number says where it comes from: `measured`, `from the recipe`, or `assumed`, which names the arithmetic. Light:
the teacher's tokenizer is imported when it is asked.
"""

import dataclasses
import functools
import math
import shlex
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from infra import manifest
from infra.figures import GIB, SECONDS_PER_HOUR, Figure, figure
from infra.resources import ClusterShape
from pipelines.inference import ledger
from pipelines.inference.backends.engine_config import needs_own_code, own_code_is_refused
from pipelines.inference.ledger import Ledger
from pipelines.inference.request_set import PendingQuestion, Plan, read_batch
from pipelines.inference.requests import Request
from pipelines.records import StoredImage, tables
from pipelines.teaching import requests, weights
from pipelines.teaching.config import TeachConfig

MEASURED, RECIPE, ASSUMED = "measured", "from the recipe", "assumed"

_SAMPLE = 256
_LEAST_WRITTEN = 50  # rationales, before their mean is worth more than the recipe's guess
_LEAST_TOKENS = 50_000  # written in a run, before its speed is that of engines at work and not of their start
_CHARACTERS_PER_TOKEN = 4
_BYTES_OF_TOKEN, _BYTES_OF_TOP_TOKEN = 4, 6  # a token's number; of a top token also its logprob, in two bytes

# Of Qwen3-VL's image processor: a token for 32 x 32 pixels, of an image that is made to have so many of them.
_PIXELS_PER_SIDE = 32
_LEAST_PIXELS, _MOST_PIXELS = 256 * 256, 4096 * 4096

T = TypeVar("T")


def estimate(
    config: TeachConfig, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
) -> dict[str, Any]:
    """What the stage would ask for and what that costs: tokens, hours and GiB on disk, and what they rest on."""
    memory = None if config.endpoint else weights.of_engine(config.teacher, config.engine, cluster)
    notes = [weights.told(memory)] if memory else []
    weighed = {"memory": memory, "notes": notes}
    questions = manifest.find(run_dir / "questions") if run_dir else None
    if questions is None or run_dir is None:
        return dict.fromkeys(("tokens", "hours", "disk_gib"), Figure(None, unread(run_dir))) | weighed
    own, root = requests.inference(config), ledger.root_of(config.ledger, run_dir)
    ledger.check_form(root)
    known = Ledger(ledger.place_of(root, own))
    with tempfile.TemporaryDirectory() as workspace:
        plan = requests.request_set(config, own, questions.path).write_plan(known, Path(workspace) / "plan.arrow")
        num_plain, num_hinted = _num_requests(plan)
        sample = [request for question in _sample(plan) for request, _ in question.requests if not request.hinted]
    counter = _counter(config)
    sizes = _sizes(questions.path, sample)
    lengths = [counter.count(request, sizes) for request in sample]
    output, output_from = _output_tokens(config, known)
    read = statistics.fmean(lengths) if lengths else 0.0
    said: dict[str, Any] = {
        "questions": {"open": plan.num_open, "of": plan.num_questions, "from": MEASURED},
        "requests": {"open": num_plain, "of": plan.num_requests, "hinted_at_most": num_hinted, "from": MEASURED},
        "output_tokens": {"mean": round(output, 1), "all": round(output * num_plain), "from": output_from},
    }
    if lengths:
        said["prompt_tokens"] = {
            "mean": round(read, 1),
            "longest": max(lengths),
            "all": round(read * num_plain),
            "from": counter.origin,
            "by": f"{len(lengths)} requests, {counter.told}",
        }
        said["room"] = room = _room(config, lengths)
        if room and room["too_long"]:
            notes.append(
                f"{room['too_long']} of {room['of']} prompts leave an answer less than teach.max_tokens="
                f"{config.max_tokens}: raise teach.engine.max_model_len"
            )
    why = (
        f"{num_plain:,} requests x ({read:.0f} tokens read, {counter.origin} by {counter.told} + {output:.0f} written, "
        f"{output_from})"
    )
    costs = {
        "tokens": figure(round((read + output) * num_plain), why),
        "hours": _hours(config, run_dir, output * num_plain),
        "disk_gib": _disk(config, output * num_plain),
    }
    return costs | said | weighed


def unread(run_dir: Path | None) -> str:
    """Why nothing can be counted while the questions are not sealed, and what to type."""
    where = shlex.quote(str(run_dir or "DIR"))
    return f"the questions are not read yet; on CPUs: python -m pipelines.questions RECIPE --run-dir {where}"


def _num_requests(plan: Plan) -> tuple[int, int]:
    """How many requests of a plan are plain, and how many hinted."""
    num_plain = num_hinted = 0
    with pa.memory_map(str(plan.path)) as source:
        batches = pa.ipc.open_file(source)
        for number in range(batches.num_record_batches):
            hinted = batches.get_batch(number)["requests"].flatten().field("hinted")
            num_hinted += hinted.true_count
            num_plain += hinted.false_count
    return num_plain, num_hinted


def _sample(plan: Plan) -> list[PendingQuestion]:
    """Open questions, evenly spread over all of them."""
    batches = _spread(range(plan.num_batches))
    return _spread([question for number in batches for question in read_batch(plan.path, number)])


def _spread(of: Sequence[T]) -> list[T]:
    num = min(_SAMPLE, len(of))
    return [of[place * len(of) // num] for place in range(num)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Counter:
    """Counts the tokens of a request. told: by what; origin: how far that is to be trusted."""

    text_tokens: Callable[[str, int], int]
    image_tokens: Callable[[int, int], int]
    told: str
    origin: str

    def count(self, request: Request, sizes: Mapping[str, tuple[int, int]]) -> int:
        """Tokens of prompt and images, as the teacher is asked. sizes: of the images, by their path."""
        text = self.text_tokens(request.prompt, len(request.images))
        return text + sum(self.image_tokens(*sizes[path]) for path in request.images)


def _sizes(folder: Path, requests: Sequence[Request]) -> dict[str, tuple[int, int]]:
    """Width and height (pixels) of the images that requests show, by their path. folder: the questions artifact."""
    shown = {path for request in requests for path in request.images}
    columns = tables.columns(folder, StoredImage, ("path", "width", "height"))
    return {path: (width, height) for path, width, height in zip(*columns, strict=True) if path in shown}


def _counter(config: TeachConfig) -> _Counter:
    """By the teacher's own tokenizer and image processor, where they are at hand."""
    processor = _processor(config.teacher)
    if processor is None:
        return _Counter(
            text_tokens=lambda prompt, _: math.ceil(len(prompt) / _CHARACTERS_PER_TOKEN),
            image_tokens=qwen3_vl_tokens,
            told=f"{_CHARACTERS_PER_TOKEN} characters a token and images as Qwen3-VL has them, since no tokenizer of "
            f"{config.teacher} is on this machine",
            origin=ASSUMED,
        )
    tokenizer, images = getattr(processor, "tokenizer", processor), getattr(processor, "image_processor", None)
    if images is None or not hasattr(images, "get_number_of_image_patches"):
        text = functools.partial(_text_tokens, processor, tokenizer)
        told = f"the tokenizer of {config.teacher}, and images as Qwen3-VL has them"
        return _Counter(text_tokens=text, image_tokens=qwen3_vl_tokens, told=told, origin=MEASURED)
    return _Counter(
        text_tokens=functools.partial(_text_tokens, processor, tokenizer),
        image_tokens=lambda width, height: images.get_number_of_image_patches(height, width) // images.merge_size**2,
        told=f"the tokenizer and image processor of {config.teacher}",
        origin=MEASURED,
    )


def _processor(teacher: str) -> Any:
    """What makes tokens for a teacher, from its folder or the hub's local cache; None where that is not at hand.

    Raises InputError where only code that the model brings along could make them.
    """
    from transformers import AutoProcessor, AutoTokenizer

    brings_code = False
    for kind in (AutoProcessor, AutoTokenizer):
        try:
            made = kind.from_pretrained(teacher, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError) as error:
            brings_code |= needs_own_code(error)
            continue  # each kind of damage to a folder is met in its own way
        if getattr(made, "chat_template", None):
            return made
    if brings_code:
        raise own_code_is_refused(teacher)
    return None


def _text_tokens(processor: Any, tokenizer: Any, prompt: str, num_images: int) -> int:
    """Tokens of the rendered turn, without the one that stands for each image."""
    content = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
    rendered = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    return len(tokenizer(rendered)["input_ids"]) - num_images


def qwen3_vl_tokens(width: int, height: int) -> int:
    """Tokens of an image in Qwen3-VL with the settings that it was published with."""
    columns, rows = round(width / _PIXELS_PER_SIDE), round(height / _PIXELS_PER_SIDE)
    pixels = columns * rows * _PIXELS_PER_SIDE**2
    if pixels > _MOST_PIXELS:
        scale = math.sqrt(_MOST_PIXELS / (width * height)) / _PIXELS_PER_SIDE
        return max(1, math.floor(width * scale)) * max(1, math.floor(height * scale))
    if pixels < _LEAST_PIXELS:
        scale = math.sqrt(_LEAST_PIXELS / (width * height)) / _PIXELS_PER_SIDE
        return math.ceil(width * scale) * math.ceil(height * scale)
    return columns * rows


def _output_tokens(config: TeachConfig, known: Ledger) -> tuple[float, str]:
    """Tokens of a rationale: the mean of those that are written, else the recipe's guess; never more than allowed."""
    written = known.mean_output_tokens() if len(known) >= _LEAST_WRITTEN else None
    if written is not None:
        return min(written, config.max_tokens), MEASURED
    return min(config.expected_output_tokens, config.max_tokens), RECIPE


def _room(config: TeachConfig, lengths: Sequence[int]) -> dict[str, Any] | None:
    """How many of the sample leave an answer less room than the recipe allows it, or none at all."""
    longest = config.engine.max_model_len
    if longest is None:
        return None
    room = longest - config.max_tokens
    refused = sum(length > room for length in lengths)
    return {
        "for_a_prompt": room,
        "longest_prompt": max(lengths),
        "too_long": refused,
        "of": len(lengths),
        "from": RECIPE,
    }


def _hours(config: TeachConfig, run_dir: Path, num_tokens: float) -> Figure:
    """As far as the speed of an engine is known."""
    speed, origin = _measured_speed(config, run_dir), MEASURED
    if speed is None:
        speed, origin = config.expected_tokens_per_s, RECIPE
    if not num_tokens:
        return figure(0, "the ledger has every answer")
    if speed is None:
        return Figure(None, "no speed is measured yet: --set teach.expected_tokens_per_s=TOKENS, of one engine")
    replicas = config.engine.replicas
    hours = num_tokens / speed / replicas / SECONDS_PER_HOUR
    return figure(hours, f"{num_tokens:,.0f} tokens written / {speed:,.1f} a second ({origin}) / {replicas} engine(s)")


def _disk(config: TeachConfig, num_tokens: float) -> Figure:
    """Every rationale is in the ledger as JSON, and once more in the sealed table."""
    text = _CHARACTERS_PER_TOKEN
    top = (_BYTES_OF_TOKEN + _BYTES_OF_TOP_TOKEN * config.top_logprobs) if config.top_logprobs else 0
    num_bytes = num_tokens * (2 * text + top + top * 4 / 3)  # in the ledger in base 64
    told = f" and {config.top_logprobs} top tokens" if config.top_logprobs else ""
    return figure(
        num_bytes / GIB, f"{ASSUMED}: {text} bytes of text{told} for each token written, in the ledger and in the table"
    )


def _measured_speed(config: TeachConfig, run_dir: Path) -> float | None:
    """Of the engines that made the rationales which this run has now, if they were the same."""
    made = manifest.find(run_dir / "rationales")
    if made is None:
        return None
    then, now = made.made_from["config"], {"teacher": config.teacher, "endpoint": config.endpoint}
    is_same = {name: then.get(name) for name in now} == now and then.get("engine") == dataclasses.asdict(config.engine)
    metrics = made.tally["metrics"]
    if not is_same or metrics.get("output_tokens_now", 0) < _LEAST_TOKENS:
        return None
    return float(metrics["tokens_per_s"]) / config.engine.replicas or None
