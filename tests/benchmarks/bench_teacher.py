"""The teacher against its peers, killed and resumed, and its machinery alone.

`python -m tests.benchmarks.bench_teacher [REPETITIONS]` (`make bench-teacher`). All in one run, on the same questions
and engine, taken in turn, in alternating order; medians with least and most. Prints a table last, and writes
build/bench/teacher.json.
"""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from infra import manifest
from pipelines import recipes
from pipelines.questions.sources.pocket import PocketConfig
from pipelines.records import Question, tables
from tests.benchmarks import paired
from tests.benchmarks.teacher_baselines import STARTED_VARIABLE, figures
from tests.pipelines.fixtures import put
from tests.pipelines.teaching.fixtures import many

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench/teacher"
RECIPE = f"{__file__}:recipe"
NUM_QUESTIONS = 2000
MACHINERY_SIZES = (2_000, 50_000)
RESUMED_AT_ONCE = 64
RAW_AT_ONCE = "512"  # of 256, 512 and all 2,000 the one at which it was fastest
LEDGER = "../ledger/*/*.jsonl"
BEGUN = ".rationales.draft-*/plan/*.inflight"
ALL_DONE = re.compile(r"teach: (\d+)/\1 ")  # fewer than were made, where two of those are alike
WATCHERS = ThreadPoolExecutor()


def recipe() -> dict[str, Any]:
    """The pocket recipe with more questions, each of which is asked once."""
    pocket = recipes.pocket()
    assert pocket.draw is not None
    drawn = PocketConfig(num_train_questions=NUM_QUESTIONS, num_test_questions=8)
    teach = dataclasses.replace(pocket.teach, num_rationales=1, grounding_share=0.0, attempts=1, max_failed_share=1.0)
    return {"pipelines": dataclasses.replace(pocket, draw=dataclasses.replace(pocket.draw, pocket=drawn), teach=teach)}


class Process:
    """A process with a group of its own, whose lines are read as they come."""

    def __init__(self, *words: str) -> None:
        self.started = time.time()
        environment = os.environ | {STARTED_VARIABLE: str(self.started)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def lines(self, at_each: Callable[[str], None] = lambda line: None) -> list[str]:
        """All lines that it prints; ends this program when it fails."""
        assert self._process.stdout is not None
        told = []
        for line in self._process.stdout:
            told.append(line.rstrip())
            at_each(told[-1])
        if self._process.wait():
            sys.exit(f"{self._process.args} failed: {told[-5:]}")
        return told

    def kill(self) -> None:
        """End it as a lost machine would: at once, and all that it started with it."""
        children = psutil.Process(self.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            if child.is_running():
                child.kill()
        psutil.wait_procs(children, timeout=30)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def prepare() -> Path:
    """Questions of the recipe in a run folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_dir = FOLDER / "runs" / "a"
    for module in ("pipelines.questions.sources.pocket", "pipelines.questions"):
        Process(module, RECIPE, "--run-dir", str(run_dir)).lines()
    return run_dir


def peer(kind: str, run_dir: Path) -> dict[str, float]:
    """The figures of a peer on the same requests."""
    return dict(json.loads(Process("tests.benchmarks.teacher_baselines", kind, RECIPE, str(run_dir)).lines()[-1]))


def ours(run_dir: Path) -> dict[str, float]:
    """The stage as a user runs it, with an empty ledger; a row is finished when it is in the ledger."""
    forget(run_dir)
    process = Process("pipelines.teaching", RECIPE, "--run-dir", str(run_dir))
    stamps = [when_there_is(run_dir, pattern) for pattern in (BEGUN, LEDGER)]
    process.lines()
    begun, first = (each.result() for each in stamps)
    last = max(path.stat().st_mtime for path in run_dir.glob(LEDGER))
    tally = sealed(run_dir)
    tokens = int(tally["metrics"]["output_tokens"])
    return figures(tally["rows"]["asked"], tokens, first - process.started, last - begun)


def when_there_is(run_dir: Path, pattern: str) -> Future[float]:
    """The moment at which a file of this name holds something."""

    def wait() -> float:
        while not any(path.stat().st_size for path in run_dir.glob(pattern)):
            time.sleep(0.05)
        return time.time()

    return WATCHERS.submit(wait)


def resumed(run_dir: Path) -> dict[str, float]:
    """Killed when half is written down, and run again: every token that was paid for, the lost ones too.

    What the engine had begun when it was killed is counted whole, which is more than it had written of it.
    """
    forget(run_dir)
    words = ("pipelines.teaching", RECIPE, "--run-dir", str(run_dir), "--set")
    words += (f"teach.engine.max_num_seqs={RESUMED_AT_ONCE}",)
    process = Process(*words)
    while len(written(run_dir)) < NUM_QUESTIONS // 2:
        time.sleep(0.02)
    process.kill()
    kept = written(run_dir)
    begun = [path.read_text().split() for path in run_dir.glob(BEGUN)]
    lost = min(sum(map(len, begun)) - len(kept), RESUMED_AT_ONCE)
    Process(*words).lines()
    everything = [json.loads(line) for line in written(run_dir)]
    tokens = sum(attempt["num_output_tokens"] for attempt in everything)
    unbroken = sealed(run_dir)["metrics"]["output_tokens"]
    return {
        "kept": len(kept),
        "lost": lost,
        "repeated": len(everything) - len({attempt["id"] for attempt in everything}),
        "token_ratio": round((tokens + lost * tokens / len(everything)) / unbroken, 4),
    }


def machinery(num_questions: int) -> dict[str, float]:
    """The stage with a teacher that costs nothing and no images: rows a second, and the driver's peak memory."""
    run_dir = FOLDER / f"machinery-{num_questions}" / "a"
    put(run_dir, "questions", lambda draft: tables.write(draft, Question, many(num_questions)))
    settings = {"num_rationales": 1, "grounding_share": 0.0, "engine": {"max_num_seqs": 128}}
    process = Process("tests.flow.teach", str(run_dir), json.dumps(settings), json.dumps({"reads_images": False}))
    peak, stamps = [0], [0.0, 0.0]

    def watch(line: str) -> None:
        peak[0] = max(peak[0], psutil.Process(process.pid).memory_info().rss)
        if line.startswith("teach: first answers"):
            stamps[0] = time.time()
        if ALL_DONE.match(line):
            stamps[1] = time.time()

    process.lines(watch)
    return {
        "questions": num_questions,
        "rows_per_s": round(num_questions / max(stamps[1] - stamps[0], 1e-3)),
        "driver_mib": round(peak[0] / 2**20),
    }


def forget(run_dir: Path) -> None:
    """Nothing is asked yet."""
    shutil.rmtree(run_dir.parent / "ledger", ignore_errors=True)
    shutil.rmtree(run_dir / "rationales", ignore_errors=True)


def written(run_dir: Path) -> list[str]:
    """The lines of the ledger."""
    return [line for path in run_dir.glob(LEDGER) for line in path.read_text().splitlines()]


def sealed(run_dir: Path) -> dict[str, Any]:
    """The tally of the sealed rationales."""
    artifact = manifest.find(run_dir / "rationales")
    assert artifact is not None
    return artifact.tally


def main(repetitions: int) -> None:
    """Measure everything and print the table."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_dir = prepare()
    systems: dict[str, Callable[[], dict[str, float]]] = {
        "raw vLLM": lambda: peer(RAW_AT_ONCE, run_dir),
        "Preceptor": lambda: ours(run_dir),
        "Ray Data LLM": lambda: peer("stock", run_dir),
    }
    about = paired.machine()
    print(paired.describe(about), flush=True)
    runs = paired.in_turns(systems, repetitions, lambda name, run: print(f"{name}: {run}", flush=True))
    raw, mine, stock = runs.values()
    after_kill = resumed(run_dir)
    print(f"resumed: {after_kill}", flush=True)
    alone = [machinery(size) for size in MACHINERY_SIZES]
    result = {
        "machine": about,
        "ratios": {
            "tokens/s, of raw vLLM": paired.ratios(mine, raw, "tokens_per_s"),
            "tokens/s, of Ray Data LLM": paired.ratios(mine, stock, "tokens_per_s"),
            "seconds to the first row, of raw vLLM": paired.ratios(mine, raw, "seconds_to_first"),
            "seconds to the first row, of Ray Data LLM": paired.ratios(mine, stock, "seconds_to_first"),
        },
        "resume_token_ratio": after_kill["token_ratio"],
        "machinery_rows_per_s": alone[-1]["rows_per_s"],
        "driver_memory_ratio": round(alone[-1]["driver_mib"] / alone[0]["driver_mib"], 3),
        "runs": runs,
        "resumed": after_kill,
        "machinery": alone,
    }
    (FOLDER.parent / "teacher.json").write_text(json.dumps(result, indent=2) + "\n")
    print_table(result)


def print_table(result: dict[str, Any]) -> None:
    """Medians over the repetitions with least and most, then the ratios of runs that stood side by side."""
    print(f"\n{'':<14}{'tokens/s':>24}{'seconds to first row':>26}{'rows':>7}{'tokens':>9}")
    for name, runs in result["runs"].items():
        speed, first = (
            f"{paired.median(runs, figure):.4g} ({paired.spread([run[figure] for run in runs])})"
            for figure in ("tokens_per_s", "seconds_to_first")
        )
        rows, tokens = (paired.median(runs, figure) for figure in ("rows", "tokens"))
        print(f"{name:<14}{speed:>24}{first:>26}{rows:>7.0f}{tokens:>9.0f}")
    for line in paired.ratio_lines(result["ratios"]):
        print(line)
    for name in ("resume_token_ratio", "machinery_rows_per_s", "driver_memory_ratio"):
        print(f"{name:<40}{result[name]:>7}")
    for each in result["machinery"]:
        print(f"machinery alone: {each}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
