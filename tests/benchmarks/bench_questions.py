"""How the questions stage grows: dirty sets like PMC-VQA's, from CSV and zip to sealed, curated questions.

`python -m tests.benchmarks.bench_questions [ROWS ...]` (`make bench-questions`). Each size is a training table and a
test table of 2,000 rows that decontaminates it. Prints a table last, and writes build/bench/questions.json.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from infra import manifest
from pipelines import recipes
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.curation import CurationConfig
from pipelines.questions.sources.source import SourceConfig
from pipelines.records import Split
from tests.benchmarks.generated import write_pmc_vqa

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench"
SIZES = (10_000, 100_000, 230_000, 1_000_000)
IMAGES_PER_ROW = 0.65  # as in PMC-VQA
NUM_TEST_ROWS = 2_000
_SAMPLE_EVERY_S = 0.5


def recipe() -> dict[str, Any]:
    """The questions stage over the generated sets; the other stages are pocket's."""
    sources = (
        SourceConfig(reader="pmc_vqa", table="train/train.csv", images="train/images.zip", split=Split.TRAIN),
        SourceConfig(reader="pmc_vqa", table="test/test_clean.csv", images="test/images.zip", split=Split.TEST),
    )
    curation = CurationConfig(validation_share=0.01, shuffle_options=True)
    questions = QuestionsConfig(sources=sources, curation=curation)
    return {"pipelines": dataclasses.replace(recipes.pocket(), questions=questions)}


def measure(num_rows: int) -> dict[str, Any]:
    """Generate a set, seal its questions in a process of its own, and say how long it took and what it held."""
    folder = FOLDER / f"set-{num_rows}"
    shutil.rmtree(folder, ignore_errors=True)
    print(f"{num_rows} rows: generating", flush=True)
    write_pmc_vqa(folder / "train", num_rows=num_rows, num_images=round(num_rows * IMAGES_PER_ROW))
    write_pmc_vqa(folder / "test", num_rows=NUM_TEST_ROWS, num_images=1440, seed=11)
    (folder / "test/train.csv").rename(folder / "test/test_clean.csv")
    command = [
        *(sys.executable, "-m", "pipelines.questions", f"{__file__}:recipe", "--run-dir", str(folder / "run")),
        *("--set", f"questions.folder={folder}"),
    ]
    started = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log)
        peak = _watch(process)
    if process.returncode:
        sys.exit(f"the stage failed: {(folder / 'log').read_text()[-2000:]}")
    seconds = time.monotonic() - started
    artifact = manifest.find(folder / "run/questions")
    assert artifact is not None
    tally = artifact.tally
    kept_back = sum(tally["reasons"].values()) + sum(tally["quarantined"].values())
    if tally["rows"]["read"] != tally["rows"]["questions"] + kept_back:
        sys.exit(f"the account does not add up: {tally}")
    shutil.rmtree(folder)
    return {
        "rows": num_rows,
        "seconds": round(seconds, 1),
        "rows_per_s": round(num_rows / seconds),
        "peak_gib": round(peak / 2**30, 2),
        "questions": tally["rows"]["questions"],
        "rejected": sum(tally["reasons"].values()),
        "quarantined": sum(tally["quarantined"].values()),
        "contamination": tally["facts"]["curation"]["contamination"],
    }


def _watch(process: "subprocess.Popen[bytes]") -> int:
    """The most memory that the process and all below it held at a time, shared pages counted once, in bytes."""
    peak = 0
    while process.poll() is None:
        try:
            root = psutil.Process(process.pid)
            peak = max(peak, sum(_held(each) for each in (root, *root.children(recursive=True))))
        except psutil.NoSuchProcess:
            break
        time.sleep(_SAMPLE_EVERY_S)
    process.wait()
    return peak


def _held(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def main(sizes: list[int]) -> None:
    """Measure each size and print the table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    measured = [measure(size) for size in sizes]
    result = {"cores": os.cpu_count(), "sizes": measured}
    (FOLDER / "questions.json").write_text(json.dumps(result, indent=2) + "\n")
    columns = ("rows", "seconds", "rows_per_s", "peak_gib", "questions", "rejected", "quarantined")
    print("\n" + "".join(f"{name:>13}" for name in columns))
    for each in measured:
        print("".join(f"{each[name]:>13}" for name in columns))


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or list(SIZES))
