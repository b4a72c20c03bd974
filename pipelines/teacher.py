"""Question -> rationale: Ray Data feeds a pool of vLLM engines, which explain the training questions. [edge]"""

import asyncio
import dataclasses
import os
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray.data
from PIL import Image

from infra import cluster, stage
from infra.digests import digest_json
from infra.errors import ClusterError, InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import images, prompts, questions, tables
from pipelines.engine import EngineConfig, keep_in_one_process
from pipelines.examples import check_may_teach
from pipelines.recipes import TeachConfig
from pipelines.records import Arm, Question, Rationale, Split


class TeacherEngine:
    """One vLLM engine in a Ray actor. Images are read at the last moment; a bad row becomes a row with its error."""

    def __init__(self, config: TeachConfig, images_folder: Path) -> None:
        self._config = config
        self._images_folder = images_folder
        self._engine = start_engine(config.teacher, config.engine)
        self._tokenizer = self._engine.tokenizer

    async def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Explain a batch of questions, all of them in flight at once; returns columns of Rationale."""
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        rationales = await asyncio.gather(*(self._explain(row) for row in rows))
        return dict(Rationale.table(rationales).to_pydict())

    async def _explain(self, row: dict[str, Any]) -> Rationale:
        from vllm.exceptions import VLLMClientError

        try:
            paths = [self._images_folder / image for image in row["images"]]
            return await self._generate(row, [await asyncio.to_thread(images.read, path) for path in paths])
        except images.UnreadableImageError as error:
            return _failed(row, str(error))
        # vLLM's words for a request that it cannot take; their text may repeat the request.
        except (VLLMClientError, ValueError) as error:
            return _failed(row, "prompt_too_long" if "length" in str(error) else "refused_by_engine")

    async def _generate(self, row: dict[str, Any], shown: list[Image.Image]) -> Rationale:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = SamplingParams(
            temperature=self._config.temperature,
            top_p=self._config.top_p,
            max_tokens=self._config.max_tokens,
            seed=int(row["seed"]),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        request = {"prompt": self._rendered(row["prompt"], len(shown)), "multi_modal_data": {"image": shown}}
        (final,) = [state async for state in self._engine.generate(request, sampling, request_id=uuid.uuid4().hex)]
        (output,) = final.outputs
        return Rationale(
            question_id=row["question_id"],
            text=output.text,
            finish_reason=str(output.finish_reason),
            num_prompt_tokens=len(final.prompt_token_ids),
            num_output_tokens=len(output.token_ids),
            seed=int(row["seed"]),
            error=None,
        )

    def _rendered(self, prompt: str, num_images: int) -> str:
        content = [*[{"type": "image"}] * num_images, {"type": "text", "text": prompt}]
        return str(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        )


def start_engine(model: str, config: EngineConfig) -> Any:
    """An asynchronous vLLM engine for a model folder or a hub's model id."""
    os.environ.update(config.environment())
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    vllm_config = AsyncEngineArgs(model=model, **config.arguments()).create_engine_config()
    keep_in_one_process(vllm_config)
    return AsyncLLM.from_vllm_config(vllm_config)


def run(task: Task) -> Tally:
    """Explain every training question once; write `rationales.parquet`, in the order of the questions."""
    config: TeachConfig = task.config
    asked = questions.of_split(task.inputs["questions"].path, Split.TRAIN)
    if not asked:
        raise InputError("The questions have none with split `train`, so there is nothing to explain.")
    check_may_teach(asked)
    # What the questions have, the engine must take: the recipe need not know how many images that is.
    engine = config.engine.taking(max(len(question.images) for question in asked))
    config = dataclasses.replace(config, engine=engine)
    cluster.connect()
    cluster.require(task.progress.say, cpus=engine.replicas * engine.cpus, gpus=engine.replicas * engine.gpus)
    task.progress.say(f"starting {engine.replicas} engine(s) for {config.teacher}")
    explained: dict[str, Rationale] = {}
    failed = 0
    for rationale in _explained(asked, config, task.inputs["questions"].path):
        explained[rationale.question_id] = rationale
        failed += rationale.error is not None
        task.progress(len(explained), len(asked), "rationales", failed=failed)
    if missing := len(asked) - len(explained):
        raise ClusterError(f"The engines returned {missing} of {len(asked)} rationales too few; run the stage again.")
    tables.write(task.draft, Rationale, [explained[question.id] for question in asked])
    return _tally(list(explained.values()))


def _explained(asked: list[Question], config: TeachConfig, folder: Path) -> Iterator[Rationale]:
    """Rationales in the order in which engines finish them."""
    rows = pa.Table.from_pylist([_request(question, config) for question in asked])
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = max(1, len(asked) // config.batch_size)
    finished = (
        ray.data.from_arrow(rows)
        .repartition(blocks)
        .map_batches(
            TeacherEngine,
            fn_constructor_kwargs={"config": config, "images_folder": folder},
            batch_size=config.batch_size,
            # Several batches in an engine at once, and the next ones waiting beside it, so that it never runs empty.
            compute=ray.data.ActorPoolStrategy(
                size=config.engine.replicas, max_concurrent_calls_per_actor=4, max_tasks_in_flight_per_actor=8
            ),
            num_cpus=config.engine.cpus,
            num_gpus=config.engine.gpus,
        )
    )
    for row in finished.iter_rows():
        yield Rationale.from_dict(row)


def _request(question: Question, config: TeachConfig) -> dict[str, Any]:
    """What travels to an engine: paths instead of images, and a seed that depends on the question, not on its
    place."""
    return {
        "question_id": question.id,
        "prompt": prompts.prompt(question, Arm.TEACHER),
        "images": list(question.images),
        "seed": int(digest_json([config.seed, question.id])[:8], 16),
    }


def _failed(row: dict[str, Any], reason: str) -> Rationale:
    return Rationale(
        question_id=row["question_id"],
        text="",
        finish_reason="error",
        num_prompt_tokens=0,
        num_output_tokens=0,
        seed=int(row["seed"]),
        error=reason,
    )


def _tally(rationales: list[Rationale]) -> Tally:
    failures = Counter(rationale.error for rationale in rationales if rationale.error)
    return Tally(
        rows={"asked": len(rationales), "explained": len(rationales) - failures.total()},
        reasons=dict(failures),
        figures={
            "prompt_tokens": sum(r.num_prompt_tokens for r in rationales),
            "output_tokens": sum(r.num_output_tokens for r in rationales),
        },
    )


if __name__ == "__main__":
    stage.main("teach", "pipelines")
