"""The real engine dies in the middle of its work, as on a GPU that falls off the bus."""

import shutil
import subprocess
import time
from collections import Counter

import psutil

from infra import manifest
from pipelines.records import Rationale, tables
from tests.flow.conftest import PROJECT, command

ENGINE = "VLLM::EngineCore"


def engines():
    """The processes of vLLM's engines below this one."""
    return [child for child in psutil.Process().children(recursive=True) if ENGINE in " ".join(child.cmdline()[:1])]


def test_a_real_engine_that_dies_is_started_again_and_no_finished_row_is_written_twice(small_run, tmp_path):
    run_dir = tmp_path / "runs" / "a"
    shutil.copytree(small_run.folder / "questions", run_dir / "questions")
    ledger = tmp_path / "ledger"
    settings = (f"teach.ledger={ledger}", "teach.num_rationales=12", "teach.engine.max_num_seqs=32")
    log = tmp_path / "log"
    killed = False
    with (
        log.open("w") as stream,
        subprocess.Popen(
            command("pipelines.teaching", run_dir, *settings), cwd=PROJECT, stdout=stream, stderr=stream
        ) as process,
    ):
        while process.poll() is None:
            written = [line for path in ledger.glob("*/*.jsonl") for line in path.read_text().splitlines()]
            if not killed and len(written) > 100:
                (engine,) = engines()
                engine.kill()
                killed = True
            time.sleep(0.05)
    assert killed
    assert process.returncode == 0, log.read_text()[-4000:]
    rationales = tables.read(run_dir / "rationales", Rationale)
    tally = manifest.find(run_dir / "rationales").tally
    assert len(rationales) == tally["rows"]["asked"] == tally["rows"]["answered"] + sum(tally["reasons"].values())
    assert set(tally["reasons"]) <= {"no_answer", "truncated"}
    explained = Counter(
        line.split('"')[3]
        for path in ledger.glob("*/*.jsonl")
        for line in path.read_text().splitlines()
        if '"status": "answered"' in line
    )
    assert set(explained.values()) == {1}
    assert len(list(ledger.glob("*/*.jsonl"))) == 2
    assert engines() == []
