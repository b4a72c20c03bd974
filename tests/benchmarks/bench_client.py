"""How near an examination comes to the rate that an endpoint of fixed latency allows, with images of 1 Mpx.

`python -m tests.benchmarks.bench_client` (`make bench-client`): 16, 64 and 256 requests in flight, each answered after
the same time, by a process of its own that reads what it is sent and does nothing else. Prints the share of the ideal
rate (requests in flight / latency) and the client's CPU milliseconds a request, and writes build/bench/client.json.
"""

import asyncio
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from aiohttp import web
from PIL import Image

from infra import runner
from infra.progress import Progress
from pipelines.examination.config import ExaminationConfig
from pipelines.records import Arm, Question, Rationale, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from pipelines.rehearsal.stub_endpoint import Said
from tests.pipelines.fixtures import put, put_images, question, rationale, showing

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench/client"
LATENCY_S = 4.0
ROUNDS = 16  # the first and the last of them are not full
IN_FLIGHT = (16, 64, 256)
NUM_IMAGES = 32
SIDE = 1024
LEAST_SHARE = 0.95
ANSWER = "Seen.\nAnswer: mill (A)"


def main() -> None:
    """Measure and print."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    pictures = {f"images/00000.zip/{number}.png": picture(number) for number in range(NUM_IMAGES)}
    rows = []
    with served() as base_url:
        for in_flight in IN_FLIGHT:
            rows.append(measured(base_url, in_flight, pictures))
            print(rows[-1], flush=True)
    (FOLDER.parent / "client.json").write_text(json.dumps(rows, indent=2))
    print(f"{'in flight':>10}{'of the ideal rate':>20}{'CPU ms a request':>20}")
    for row in rows:
        print(f"{row['in flight']:>10}{row['share of the ideal rate']:>20.3f}{row['CPU ms a request']:>20.1f}")
    assert min(row["share of the ideal rate"] for row in rows) >= LEAST_SHARE


def measured(base_url: str, in_flight: int, pictures: dict[str, Image.Image]) -> dict[str, float]:
    """An examination of so many requests at once, in this process."""
    run_dir, total = FOLDER / str(in_flight) / "r", in_flight * ROUNDS
    own = [showing(question(images=(path,), split="test"), pictures) for path in pictures]  # encoded once
    asked = [dataclasses.replace(own[n % NUM_IMAGES], id=f"q{n}", text=f"What is in {n}?") for n in range(total)]

    def write(draft: Path) -> None:
        tables.write(draft, Question, asked)
        put_images(draft, pictures)

    put(run_dir, "questions", write)
    put(run_dir, "rationales", lambda draft: tables.write(draft, Rationale, [rationale(ANSWER)]))
    model = ServedModel(name=Arm.ZERO_SHOT, arm=Arm.ZERO_SHOT, digest="d", base_url=base_url)
    put(run_dir, "endpoint", Endpoint(base_url=base_url, models=(model,)).write)
    config = ExaminationConfig(plan=("zero_shot/real",), concurrency=in_flight)
    before = time.process_time()
    metrics = runner.carry_out(config, run_dir, Progress("examination"))["examination"].tally["metrics"]
    assert metrics["attempts_now"] == total
    ideal_s = total / in_flight * LATENCY_S
    return {
        "in flight": in_flight,
        "requests": total,
        "seconds": round(metrics["seconds_now"], 2),
        "share of the ideal rate": round(ideal_s / metrics["seconds_now"], 3),
        "CPU ms a request": round((time.process_time() - before) / total * 1000, 1),
    }


def picture(number: int) -> Image.Image:
    """Grey clouds of 1 Mpx, about as large in a file as a radiograph."""
    coarse = np.random.default_rng(number).integers(0, 255, (SIDE // 8, SIDE // 8), dtype=np.uint8)
    fine = np.random.default_rng(number).normal(0, 1.5, (SIDE, SIDE))
    smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float64)
    return Image.fromarray(np.clip(smooth + fine, 0, 255).astype(np.uint8))


@contextmanager
def served() -> Iterator[str]:
    """The endpoint, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "serve"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


async def serve() -> None:
    """Answer every request after the same time, until standard input ends."""

    async def complete(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(LATENCY_S)
        return web.json_response(Said(text=ANSWER).as_json())

    async def models(_: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": Arm.ZERO_SHOT}]})

    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/chat/completions", complete)
    application.router.add_get("/v1/models", models)
    runner_of = web.AppRunner(application, access_log=None)
    await runner_of.setup()
    await web.TCPSite(runner_of, "127.0.0.1", 0).start()
    print(f"http://127.0.0.1:{runner_of.addresses[0][1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner_of.cleanup()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve())
    else:
        main()
