"""The teacher's peers on its own requests: raw asynchronous vLLM, and Ray Data LLM's stock processor.

`python -m tests.benchmarks.teacher_baselines {AT_ONCE|stock} RECIPE_FILE:FUNCTION RUN_DIR` prints one JSON object.
Prompts, images, seeds, sampling and the engine's arguments and environment are those of the stage; each peer is
otherwise as it comes.
"""

import asyncio
import json
import math
import os
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from infra import recipes
from pipelines.images import sealed
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.chat import image_url
from pipelines.inference.backends.vllm_engine import start_vllm
from pipelines.inference.requests import Request
from pipelines.teaching.config import TeachConfig
from pipelines.teaching.requests import inference, request_set

STARTED_VARIABLE = "BENCH_STARTED"


class Clock:
    """Counts tokens as they come; it runs from when an engine was first given a request to the last finished row."""

    def __init__(self) -> None:
        self._started = float(os.environ[STARTED_VARIABLE])
        self._begun = math.inf
        self._first = self._last = 0.0
        self._tokens = self._rows = 0

    def add(self, num_tokens: int, seconds: float) -> None:
        """A row is finished, so long after the engine was given it."""
        self._last = time.time()
        self._begun = min(self._begun, self._last - seconds)
        self._first = self._first or self._last
        self._tokens += num_tokens
        self._rows += 1

    def figures(self) -> dict[str, float]:
        """Seconds to the first row from the start of the process, and tokens a second from the first request on."""
        return figures(self._rows, self._tokens, self._first - self._started, self._last - self._begun)


def figures(rows: int, tokens: int, seconds_to_first: float, seconds: float) -> dict[str, float]:
    """What is compared."""
    return {
        "rows": rows,
        "tokens": tokens,
        "seconds_to_first": round(seconds_to_first, 2),
        "tokens_per_s": round(tokens / seconds, 1),
    }


def requests(config: TeachConfig, run_dir: Path) -> list[Request]:
    """What the stage would ask, in its order."""
    asking = request_set(config, inference(config), run_dir / "questions")
    return [request for chunk in asking.chunks() for _, each in chunk for request in each]


def sampling(config: TeachConfig, request: Request) -> dict[str, Any]:
    """vLLM's sampling parameters of a request, as the stage has them."""
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "max_tokens": config.max_tokens,
        "seed": request.seed(0),
        "logprobs": 0,
        "flat_logprobs": True,
    }


def raw(config: TeachConfig, run_dir: Path, at_once: int) -> dict[str, float]:
    """One AsyncLLM in one process, which is given so many requests at once."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    clock = Clock()
    asked = requests(config, run_dir)
    engine = start_vllm(config.teacher, config.engine)
    slots = asyncio.Semaphore(at_once)

    async def ask(request: Request) -> None:
        async with slots:
            begun = time.time()
            its_images = sealed.of(run_dir / "questions", request)
            shown = [await asyncio.to_thread(image.decode) for image in its_images]
            content = [*[{"type": "image"}] * len(shown), {"type": "text", "text": request.prompt}]
            prompt = engine.tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
            settings = SamplingParams(**sampling(config, request), output_kind=RequestOutputKind.FINAL_ONLY)
            inputs = {"prompt": prompt, "multi_modal_data": {"image": shown}}
            async for state in engine.generate(inputs, settings, request_id=uuid.uuid4().hex):
                clock.add(len(state.outputs[0].token_ids), time.time() - begun)

    async def ask_all() -> None:
        await asyncio.gather(*(ask(request) for request in asked))

    asyncio.run(ask_all())
    engine.shutdown()
    return clock.figures()


def stock(config: TeachConfig, run_dir: Path) -> dict[str, float]:
    """ray.data.llm's processor with its defaults, on the same engine arguments."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    clock = Clock()
    os.environ.update(config.engine.environment())
    rows = [
        {
            "prompt": request.prompt,
            "shown": [(str(i.path), i.digest) for i in sealed.of(run_dir / "questions", request)],
            "sampling": sampling(config, request),
        }
        for request in requests(config, run_dir)
    ]
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        urls = [image_url(SealedImage(Path(path), digest)) for path, digest in row["shown"]]
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [*shown, {"type": "text", "text": row["prompt"]}]
        return {"messages": [{"role": "user", "content": content}], "sampling_params": row["sampling"]}

    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=config.teacher,
            engine_kwargs={**config.engine.arguments(), "trust_remote_code": False},
            placement_group_config={"bundle_per_worker": {"CPU": 1, "GPU": 0}},
            prepare_multimodal_stage={"enabled": True},
            tokenize_stage=False,
            detokenize_stage=False,
            log_engine_metrics=False,
            runtime_env={"env_vars": config.engine.environment()},
        ),
        preprocess=preprocess,
        postprocess=lambda row: {"tokens": row["num_generated_tokens"], "seconds": row["time_taken_llm"]},
    )
    for row in processor(ray.data.from_items(rows)).iter_rows():
        clock.add(int(row["tokens"]), float(row["seconds"]))
    ray.shutdown()
    return clock.figures()


def main(arguments: list[str]) -> None:
    """Run one peer and print its figures."""
    kind, recipe, run_dir = arguments
    config = recipes.resolve(recipe, ["pipelines"])["teach"]
    told = stock(config, Path(run_dir)) if kind == "stock" else raw(config, Path(run_dir), int(kind))
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
