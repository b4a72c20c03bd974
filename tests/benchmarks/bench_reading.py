"""What images cost on their way to models: out of shards in any order, into a fit's plan, and to an endpoint.

`python -m tests.benchmarks.bench_reading` (`make bench-reading`). 147 shards of 1,024 images, as PMC-VQA has, and 1 Mpx
PNG and JPEG for an endpoint in another process. Prints a table, and writes build/bench/reading.json.
"""

import asyncio
import io
import itertools
import json
import random
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from transformers import Qwen3VLProcessor

from infra.digests import digest_bytes
from pipelines.images import decoding, sealed
from pipelines.inference import conditions, prompts
from pipelines.inference.backends.endpoint import EndpointBackend
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.inference.config import InferenceConfig, Model, Sampling
from pipelines.inference.requests import request
from pipelines.records import Arm, Condition, Question, StoredImage, TrainingExample, tables
from tests.pipelines.fixtures import question
from train.encoding import encode
from train.recipes import POCKET_BASE

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench/reading"
NUM_SHARDS, IMAGES_PER_SHARD = 147, 1024
NUM_READ, NUM_EXAMPLES, NUM_ASKED = 20_000, 3_000, 32
SIDE = 1024
ENDPOINT = (
    "import sys; from pipelines.rehearsal import stub_endpoint\n"
    "with stub_endpoint.endpoint(lambda _: 'Answer: mill (A)') as url: print(url, flush=True); sys.stdin.read()"
)


def main() -> None:
    """Measure and print."""
    figures: dict[str, Any] = {}
    small = write(FOLDER / "small", small_images(), IMAGES_PER_SHARD)
    order = random.Random(0).sample(small, len(small))
    first, later = order[:NUM_SHARDS], order[NUM_SHARDS : NUM_SHARDS + NUM_READ]
    figures["first read of a shard, ms"] = milliseconds(lambda: read(FOLDER / "small", first), len(first))
    figures["read in shuffled order, ms"] = milliseconds(lambda: read(FOLDER / "small", later), len(later))
    examples = [example(asked) for asked in order[:NUM_EXAMPLES]]
    processor = Qwen3VLProcessor.from_pretrained(PROJECT / POCKET_BASE, trust_remote_code=False)
    figures["example into a fit's plan, ms"] = milliseconds(
        lambda: encode(examples, FOLDER / "small", processor, 1 << 20), len(examples)
    )
    for kind in ("PNG", "JPEG"):
        large = write(FOLDER / kind, (encoded(photo(number), kind) for number in range(NUM_ASKED)), NUM_ASKED)
        for condition in (Condition.REAL, Condition.BLANK):
            each_ms, longest_ms = asyncio.run(ask(FOLDER / kind, large, condition))
            figures[f"1 Mpx {kind} asked, {condition}, ms"] = each_ms
            figures[f"1 Mpx {kind} asked, {condition}, longest block of the event loop, ms"] = longest_ms
    (FOLDER.parent / "reading.json").write_text(json.dumps(figures, indent=2))
    for name, value in figures.items():
        print(f"{name:>70}  {value:.2f}", flush=True)


def write(folder: Path, contents: Iterator[tuple[bytes, int]], per_shard: int) -> list[Question]:
    """A questions artifact with a question for each image, as its stage lays it out. contents: bytes and side."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    asked, stored = [], []
    numbered = enumerate(contents)
    for shard_number in itertools.count():
        shard = f"images/{shard_number:05d}.zip"
        with zipfile.ZipFile(folder / shard, "w") as opened:
            for number, (data, side) in itertools.islice(numbered, per_shard):
                digest = digest_bytes(data)
                path = f"{shard}/{digest[:32]}.any"
                opened.writestr(zipfile.ZipInfo(path.rpartition("/")[2]), data)
                asked.append(question(id=f"q{number}", images=(path,), image_digests=(digest,)))
                stored.append(stored_image(path, digest, side))
        if len(asked) < (shard_number + 1) * per_shard:
            break
    tables.write(folder, Question, asked)
    tables.write(folder, StoredImage, stored)
    return asked


def stored_image(path: str, digest: str, side: int) -> StoredImage:
    """What the questions' table says of a square image."""
    return StoredImage(
        path=path,
        name=path,
        crop="",
        source_digest=digest,
        digest=digest,
        pixel_digest="",
        perceptual_hash=b"",
        width=side,
        height=side,
        changes=(),
    )


def small_images() -> Iterator[tuple[bytes, int]]:
    """As many as PMC-VQA has, all different."""
    for number in range(NUM_SHARDS * IMAGES_PER_SHARD):
        yield decoding.png(Image.new("RGB", (32, 32), (number & 255, number >> 8 & 255, number >> 16))), 32


def photo(number: int) -> Image.Image:
    """1 Mpx of smooth shades and a little noise."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE]
    shades = [128 + 80 * np.sin(columns / (97 + number) + c) + 40 * np.cos(rows / 53 + c) for c in range(3)]
    noise = np.random.default_rng(number).normal(0, 6, (SIDE, SIDE, 1))
    return Image.fromarray((np.stack(shades, -1) + noise).clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str) -> tuple[bytes, int]:
    """The image's bytes in a format, and its side."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **({"quality": 95, "subsampling": 0} if kind == "JPEG" else {"compress_level": 3}))
    return buffer.getvalue(), image.width


def example(asked: Question) -> TrainingExample:
    """A training example about a question."""
    return TrainingExample(
        question_id=asked.id,
        split="train",
        rationale_id=asked.id,
        arm=Arm.ANSWER_ONLY,
        weight=1.0,
        images=asked.images,
        image_digests=asked.image_digests,
        prompt=prompts.prompt(asked, Arm.ANSWER_ONLY),
        target=prompts.target(asked, None),
    )


def read(folder: Path, asked: list[Question]) -> None:
    """Read the images of these questions."""
    for each in asked:
        for image in sealed.of(folder, each):
            image.read()


def milliseconds(work: Callable[[], object], num: int) -> float:
    """That the work takes for each of its `num` parts."""
    started = time.monotonic()
    work()
    return (time.monotonic() - started) / num * 1000


async def ask(folder: Path, asked: list[Question], condition: Condition) -> tuple[float, float]:
    """Milliseconds for each question, and the longest in which the event loop did nothing else."""
    longest = 0.0

    async def watch() -> None:
        nonlocal longest
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            longest = max(longest, time.monotonic() - began)

    process = subprocess.Popen(
        [sys.executable, "-c", ENDPOINT], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    config = InferenceConfig(
        stage="bench",
        model=Model(name="m", digest=""),
        sampling=Sampling(max_tokens=4),
        endpoint=process.stdout.readline().strip(),
        engine=EngineConfig(max_num_seqs=NUM_ASKED),
        timeout_s=120,
        max_failed_share=0.0,
        batch_size=1,
    )
    backend = EndpointBackend(config)
    shown = [conditions.shown_images(folder, request(config, each, "?", condition)) for each in asked]
    watching = asyncio.create_task(watch())
    started = time.monotonic()
    await asyncio.gather(*(backend.generate("?", images, seed=0) for images in shown))
    seconds = time.monotonic() - started
    watching.cancel()
    await backend.close()
    process.communicate("")
    return seconds / len(asked) * 1000, longest * 1000


if __name__ == "__main__":
    main()
