"""The endpoint at its capacity and at twice that: what it answers, what it refuses, and what it costs.

`python -m tests.benchmarks.bench_overload [SECONDS] [RUN_DIR]` (`make bench-overload`), against the last demo's run.
Requests with an image each, for one model after the other, come at a fixed pace whether or not earlier ones are
answered. Prints a table last, and writes build/bench/overload.json.
"""

import asyncio
import base64
import json
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

from tests.benchmarks.served import PROJECT, Served, serving

SECONDS = 60.0
ANSWER_TOKENS = 48
MANY = 32


def main(seconds: float, run_dir: Path) -> None:
    """Measure and print."""
    log = PROJECT / "build/bench/overload.log"
    with serving(run_dir, log=log) as served:
        figures = asyncio.run(measure(served, seconds))
    (log.parent / "overload.json").write_text(json.dumps(figures, indent=2))
    for name, value in figures.items():
        print(f"{name:>32}  {value}", flush=True)


async def measure(served: Served, seconds: float) -> dict[str, Any]:
    """All figures, in the order in which they are measured."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=180)) as session:
        load = Load(served, session)
        await load.prepare()
        await load.closed(MANY, 10)  # warm-up
        capacity = await load.closed(MANY, seconds / 2)
        memory_before = served.memory_bytes()
        at_capacity = await load.open(capacity, seconds)
        at_twice = await load.open(2 * capacity, seconds)
        memory_after = served.memory_bytes()
        small_alone = await load.small_beside(0)
        small_beside = await load.small_beside(20)
    return {
        "capacity_requests_per_s": round(capacity, 1),
        "at_capacity": at_capacity,
        "at_twice": at_twice,
        "throughput_at_twice_vs_capacity": round(at_twice["answered_per_s"] / at_capacity["answered_per_s"], 3),
        "memory_gib_before": round(memory_before / 2**30, 2),
        "memory_gib_after": round(memory_after / 2**30, 2),
        "small_alone_s": small_alone,
        "small_beside_20_large_s": small_beside,
    }


class Load:
    """Requests to an endpoint."""

    def __init__(self, served: Served, session: aiohttp.ClientSession) -> None:
        self._url = f"{served.base_url}/chat/completions"
        self._models_url = f"{served.base_url}/models"
        self._session = session
        self._number = 0

    async def prepare(self) -> None:
        """Learn the models' names, and draw images."""
        async with self._session.get(self._models_url) as response:
            self._models = [card["id"] for card in (await response.json())["data"]]
        self._images = [base64.b64encode(_picture(number)).decode() for number in range(64)]

    async def closed(self, concurrency: int, seconds: float) -> float:
        """Answers per second when this number of clients ask one question after the other."""
        ends: list[float] = []
        started = time.monotonic()

        async def client() -> None:
            while time.monotonic() - started < seconds:
                if (await self._ask())[0] == 200:
                    ends.append(time.monotonic())

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return len(ends) / (max(ends) - started)

    async def open(self, per_s: float, seconds: float) -> dict[str, Any]:
        """Statuses and waits of requests that come at this pace, counted until the last is answered."""
        started = time.monotonic()
        tasks = []
        while (elapsed := time.monotonic() - started) < seconds:
            while len(tasks) < elapsed * per_s:
                tasks.append(asyncio.ensure_future(self._ask()))
            await asyncio.sleep(0.005)
        within = sum(task.done() and task.result()[0] == 200 for task in tasks)
        results = await asyncio.gather(*tasks)
        waits = sorted(wait for status, wait in results if status == 200)
        refusals = sorted(wait for status, wait in results if status == 429)
        return {
            "asked": len(tasks),
            "answered_per_s": round(within / seconds, 1),
            "statuses": dict(Counter(status for status, _ in results)),
            "p50_s": round(statistics.median(waits), 2),
            "p95_s": round(waits[int(0.95 * len(waits))], 2),
            "refusal_p95_s": round(refusals[int(0.95 * len(refusals))], 2) if refusals else None,
        }

    async def small_beside(self, num_large: int) -> float:
        """Seconds of the slowest of ten small requests, one after the other, beside num_large large ones."""
        large = [
            asyncio.ensure_future(self._ask(user="large", n=4, max_tokens=1000, temperature=1.0, ignore_eos=True))
            for _ in range(num_large)
        ]
        await asyncio.sleep(1)
        waits = [(await self._ask(user="small"))[1] for _ in range(10)]
        for task in large:
            task.cancel()
        await asyncio.gather(*large, return_exceptions=True)
        return round(max(waits), 2)

    async def _ask(self, **settings: Any) -> tuple[int, float]:
        """Status and seconds of one request."""
        self._number += 1
        image = self._images[self._number % len(self._images)]
        content = [
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
            {"type": "text", "text": f"{self._number} Which process route made this sample? A mill, B cast, C press."},
        ]
        body = {
            "model": self._models[self._number % len(self._models)],
            "messages": [{"role": "user", "content": content}],
            "max_tokens": ANSWER_TOKENS,
            "temperature": 0.0,
        } | settings
        started = time.monotonic()
        try:
            async with self._session.post(self._url, json=body) as response:
                await response.read()
                return response.status, time.monotonic() - started
        except (TimeoutError, aiohttp.ClientError) as error:
            print(f"overload: {type(error).__name__}", file=sys.stderr)
            return 0, time.monotonic() - started


def _picture(number: int) -> bytes:
    import numpy as np
    from PIL import Image

    from pipelines.images import decoding

    drawn = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return decoding.png(Image.fromarray(drawn))


if __name__ == "__main__":
    main(
        float(sys.argv[1]) if len(sys.argv) > 1 else SECONDS,
        Path(sys.argv[2] if len(sys.argv) > 2 else PROJECT / "runs/pocket").absolute(),
    )
