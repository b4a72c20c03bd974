"""An examination as large as PMC-VQA's, against an endpoint that costs nothing: its memory, speed and resume.

`python -m tests.benchmarks.bench_examination [QUESTIONS]` (`make bench-examination`): 33,430 questions under 8 entries
of a plan. The stage runs in a process of its own, is killed when a third is answered, and goes on. Prints peak memory,
answers a second and what was asked twice, and writes build/bench/examination.json.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra import manifest, runner
from infra.progress import Progress
from pipelines.examination.config import ExaminationConfig
from pipelines.records import Arm, Prediction, Rationale, tables
from pipelines.records.endpoint import Endpoint, ServedModel
from tests.pipelines.fixtures import put, put_questions, question, rationale, showing
from tests.pipelines.teaching.fixtures import picture

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench/examination"
NUM_QUESTIONS = 33_430  # of PMC-VQA's test split
CONDITIONS = ("real", "blank", "absent", "shuffled", "captioned")
PLAN = (*(f"zero_shot/{each}" for each in CONDITIONS), *(f"teacher/{each}" for each in CONDITIONS[:3]))
CONFIG = ExaminationConfig(plan=PLAN, concurrency=64)
PER_SHARD = 1024
MOST_GIB = 4.0


def main(num_questions: int) -> None:
    """Measure and print."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_dir = FOLDER / "runs/r"
    write(run_dir, num_questions)
    total = num_questions * len(PLAN)
    with served() as base_url:
        models = tuple(
            ServedModel(name=arm, arm=arm, digest=arm, base_url=base_url) for arm in (Arm.ZERO_SHOT, Arm.TEACHER)
        )
        put(run_dir, "endpoint", Endpoint(base_url=base_url, models=models).write)
        kill_when(run_dir, total // 3)
        settled = num_lines(run_dir)
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, "run", str(run_dir)], cwd=PROJECT, check=True, capture_output=True
        )
        seconds = time.monotonic() - started
    artifact = manifest.find(run_dir / "examination")
    assert artifact is not None
    peak_gib = int(done.stdout.split()[-1]) / (1 << 20)
    figures = {
        "answers": tables.count(artifact.path, Prediction),
        "settled before the kill": settled,
        "lines in the ledger": num_lines(run_dir),
        "answers a second after it": round((total - settled) / seconds, 1),
        "peak memory, GiB": round(peak_gib, 2),
    }
    (FOLDER.parent / "examination.json").write_text(json.dumps(figures, indent=2))
    for name, value in figures.items():
        print(f"{name:>40}  {value}", flush=True)
    assert figures["answers"] == figures["lines in the ledger"] == total
    assert peak_gib <= MOST_GIB


def write(run_dir: Path, num_questions: int) -> None:
    """A run up to its endpoint, with an image of its own for each question."""
    paths = [f"images/{number // PER_SHARD:05d}.zip/{number}.png" for number in range(num_questions)]
    pictures = {path: picture(path) for path in paths}
    asked = [
        showing(question(id=f"q{number}", split="test", images=(path,), text=f"What is in {number}?"), pictures)
        for number, path in enumerate(paths)
    ]
    put_questions(run_dir, asked, pictures, {each.id: f"A caption of {each.id}." for each in asked})
    put(run_dir, "rationales", lambda draft: tables.write(draft, Rationale, [rationale("Answer: mill (A)")]))


@contextmanager
def served() -> Iterator[str]:
    """The endpoint, in a process of its own."""
    script = (
        "import sys; from pipelines.rehearsal import stub_endpoint\n"
        "with stub_endpoint.endpoint(lambda _: 'Seen.\\nAnswer: mill (A)', ['zero_shot', 'teacher']) as url:\n"
        "    print(url, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.communicate("")


def kill_when(run_dir: Path, num_settled: int) -> None:
    """Run the stage, and kill it when so many answers are in the ledger."""
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "run", str(run_dir)], cwd=PROJECT, stdout=subprocess.DEVNULL
    )
    while num_lines(run_dir) < num_settled:
        assert process.poll() is None, "the stage ended before it could be killed"
        time.sleep(1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def num_lines(run_dir: Path) -> int:
    """How many attempts the ledger holds."""
    return sum(path.read_bytes().count(b"\n") for path in (run_dir.parent / "ledger").glob("*/*.jsonl"))


def run(run_dir: Path) -> None:
    """The stage; prints the peak memory of this process in KiB last."""
    runner.carry_out(CONFIG, run_dir, Progress("examination"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run(Path(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if sys.argv[1:] else NUM_QUESTIONS)
