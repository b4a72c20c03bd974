"""The whole flow, killed at random moments and run again: nothing is lost, half-trusted, repeated, or left running.

`python -m tests.benchmarks.kill_flow [--seed N]` (`make kill-flow`): a small flow on the real engines. 24 times, a
flow driver, a stage's job driver, an engine or Ray's node daemon is killed, over all stages; then it runs to
the end. About half an hour on two cores. Prints a table last, writes build/bench/kill_flow.json, and exits non-zero at
a fault.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from infra import manifest
from infra.errors import ArtifactError
from pipelines.records import Arm, Prediction, Rationale, Status, TrainingExample, tables
from tests.benchmarks.served import PROJECT, free_port

FOLDER = PROJECT / "build/bench/kill_flow"
SETTINGS = (
    "draw.pocket.num_train_questions=96",
    "draw.pocket.num_test_questions=24",
    "fit.num_steps=60",
    "fit.checkpoint_every=5",
    "report.num_examples=4",
)
# Stage -> what is killed in it, one after the other, and how many seconds after the stage's first sign at most.
PLAN = {
    "draw": (["flow", "raylet"], 4.0),
    "questions": (["flow", "job"], 4.0),
    "teach": (["engine", "flow", "raylet", "job"], 45.0),
    "verify": (["job", "flow"], 4.0),
    "compose": (["raylet", "flow"], 4.0),
    "fit": (["flow", "job", "raylet", "flow"], 45.0),
    "deploy": (["flow", "engine", "raylet"], 40.0),
    "examination": (["engine", "flow", "job"], 12.0),
    "report": (["flow", "job"], 4.0),
}
_STAGE_OF = {"pipelines.questions.sources.pocket": "draw", "pipelines.questions": "questions",
             "pipelines.teaching": "teach", "pipelines.verification": "verify", "pipelines.examples": "compose",
             "train.fit": "fit", "serve.app": "deploy", "pipelines.examination": "examination",
             "pipelines.report": "report"}  # fmt: skip
_MADE_BY = {"draw": "source", "questions": "questions", "teach": "rationales", "verify": "verdicts",
            "compose": "examples", "fit": "adapters", "deploy": "examination", "examination": "examination",
            "report": "report"}  # fmt: skip
_RUN_TIMEOUT_S = 600.0
_END_TIMEOUT_S = 90.0
_LOOK_EVERY_S = 0.2


@dataclasses.dataclass
class Kill:
    """One kill: what was killed in which stage, how the flow ended, and what was found wrong after it."""

    stage: str
    target: str
    after_s: float
    code: int | None = None
    said: str = ""
    faults: list[str] = dataclasses.field(default_factory=list)


class Watched:
    """A run of the flow, with every process that it ever had below it."""

    def __init__(self, run_dir: Path, port: int, log: Path) -> None:
        words = [word for setting in (*SETTINGS, f"deploy.port={port}") for word in ("--set", setting)]
        self._stream = log.open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.flow", "pocket", "--run-dir", str(run_dir), *words],
            cwd=PROJECT,
            stdout=self._stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.seen: dict[int, psutil.Process] = {}
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_EVERY_S):
            with contextlib.suppress(psutil.Error):
                flow = psutil.Process(self.process.pid)
                self.seen |= {each.pid: each for each in (flow, *flow.children(recursive=True))}

    def stage(self) -> str | None:
        """The stage whose job driver runs now."""
        return next((stage for stage, _ in self._drivers()), None)

    def _drivers(self) -> Iterator[tuple[str, psutil.Process]]:
        for process in list(self.seen.values()):
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if "-m" in words and "env" not in words[:1] and (named := _STAGE_OF.get(words[words.index("-m") + 1])):
                    yield named, process

    def target(self, name: str) -> psutil.Process | None:
        """The process of that kind; the newest where there are several."""
        if name == "flow":
            return psutil.Process(self.process.pid)
        found = [process for _, process in self._drivers()] if name == "job" else self._named(name)
        return max(found, key=lambda process: process.create_time(), default=None)

    def _named(self, name: str) -> list[psutil.Process]:
        part = {"engine": "EngineCore", "raylet": "raylet"}[name]
        found = []
        for process in list(self.seen.values()):
            with contextlib.suppress(psutil.Error):
                if part in " ".join(process.cmdline()[:1]) and process.is_running():
                    found.append(process)
        return found

    def left_alive(self) -> list[str]:
        """Names of processes that outlive the flow's end by more than they may."""
        _, alive = psutil.wait_procs(list(self.seen.values()), timeout=_END_TIMEOUT_S)
        names = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    names.append(" ".join(process.cmdline())[:80] or process.name())
        for process in alive:
            with contextlib.suppress(psutil.Error):
                process.kill()
        return names

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._stream.close()


def one_run(run_dir: Path, log: Path, waiting: dict[str, list[str]], rng: random.Random) -> list[Kill]:
    """Run the flow until it ends, and meanwhile kill what is planned for the stages that it comes to."""
    port = free_port()
    watched, kills, started = Watched(run_dir, port, log), [], time.monotonic()
    try:
        while watched.process.poll() is None and time.monotonic() - started < _RUN_TIMEOUT_S:
            stage = watched.stage()
            if stage and waiting.get(stage):
                kills.append(_kill(watched, stage, waiting[stage].pop(0), rng))
            time.sleep(_LOOK_EVERY_S)
        code = watched.process.poll()
        if code is None:
            kills.append(Kill("", "", 0, faults=[f"the flow did not end within {_RUN_TIMEOUT_S:.0f} s"]))
            watched.process.kill()
        last = kills[-1] if kills else Kill("", "nothing", 0)
        last.code, last.said = code, _last_line(log)
        last.faults += [f"left running: {name}" for name in watched.left_alive()]
        last.faults += untrustworthy(run_dir)
        print(f"kill: the flow ended with {code}, {last.faults or 'sound'}", flush=True)
        return kills or [last]
    finally:
        watched.close()


def _kill(watched: Watched, stage: str, name: str, rng: random.Random) -> Kill:
    kill = Kill(stage, name, round(rng.uniform(0, PLAN[stage][1]), 1))
    deadline = time.monotonic() + kill.after_s
    while time.monotonic() < deadline and watched.stage() == stage:
        time.sleep(_LOOK_EVERY_S)
    process = watched.target(name)
    if process is None:  # an engine that has not started yet
        while process is None and watched.stage() == stage and watched.process.poll() is None:
            time.sleep(_LOOK_EVERY_S)
            process = watched.target(name)
    kill.stage = watched.stage() or f"after {stage}"
    if process is None and watched.process.poll() is None:  # it has ended by itself meanwhile
        kill.target, process = f"flow, {name} was gone", watched.target("flow")
    if process is None:
        kill.target = f"nothing, {name} was gone"
        return kill
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGKILL)
    print(f"kill: {kill.target} in {kill.stage}, {kill.after_s} s after its start", flush=True)
    time.sleep(2)
    return kill


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text().splitlines() if line.strip()]
    return lines[-1][:160] if lines else ""


def untrustworthy(run_dir: Path) -> list[str]:
    """Artifacts that are there and are not what was sealed."""
    faults = []
    for path in {found.parent for found in run_dir.rglob(manifest.MANIFEST) if ".draft-" not in str(found)}:
        try:
            manifest.find(path, every_byte=True)
        except ArtifactError as error:
            faults.append(str(error))
    return faults


def account(run_dir: Path) -> dict[str, Any]:
    """What the finished run holds, counted; `faults` where something was lost, or done twice."""
    faults = []
    rationales = tables.read(run_dir / "rationales", Rationale)
    predictions = tables.read(run_dir / "examination", Prediction)
    lines = [json.loads(line) for file in run_dir.parent.glob("ledger/*/*.jsonl") for line in _whole_lines(file)]
    explained = Counter(line["id"] for line in lines if line["status"] == Status.ANSWERED)
    if twice := [each for each, count in explained.items() if count > 1]:
        faults.append(f"{len(twice)} finished rationales were asked for again")
    curves = {}
    for arm in (Arm.ANSWER_ONLY, Arm.RATIONALE_THEN_ANSWER):
        steps = [step["step"] for step in json.loads((run_dir / f"adapters/{arm}/training.json").read_text())["steps"]]
        curves[str(arm)] = len(steps)
        if steps != list(range(steps[0], steps[0] + 60)):
            faults.append(f"the curve of {arm} has steps {steps}")
        if not tables.read(run_dir / f"examples/{arm}", TrainingExample):
            faults.append(f"no examples of {arm}")
    if len(predictions) != 6 * 24 or not (run_dir / "report/index.html").is_file():
        faults.append(f"{len(predictions)} predictions")
    if list(run_dir.rglob("*.draft-*")):
        faults.append(f"drafts are left: {list(run_dir.rglob('*.draft-*'))[:3]}")
    return {"rationales": len(rationales), "ledger_lines": len(lines), "steps": curves, "faults": faults}


def _whole_lines(file: Path) -> list[bytes]:
    return [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def main(seed: int) -> None:
    """Kill, run again, and print."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    run_dir, log = FOLDER / "runs/killed", FOLDER / "log"
    run_dir.parent.mkdir(parents=True)
    rng, kills = random.Random(seed), []
    waiting = {stage: list(targets) for stage, (targets, _) in PLAN.items()}
    runs = 0
    while any(waiting.values()) and runs < 2 * sum(len(targets) for targets, _ in PLAN.values()):
        runs += 1
        kills += one_run(run_dir, log, waiting, rng)
        if kills[-1].code == 0:  # everything is up to date: stages in which a kill is still planned have to run again
            for stage in (stage for stage, targets in waiting.items() if targets):
                shutil.rmtree(run_dir / _MADE_BY[stage], ignore_errors=True)
    kills += one_run(run_dir, log, {}, rng)
    finished = kills[-1].code == 0
    figures = {"runs": runs + 1, "kills": [dataclasses.asdict(kill) for kill in kills]}
    figures["account"] = account(run_dir) if finished else {"faults": ["the last run did not end well"]}
    (FOLDER.parent / "kill_flow.json").write_text(json.dumps(figures, indent=2))
    for kill in kills:
        print(f"{kill.stage:>16} {kill.target:>18}  code {kill.code}  {kill.said[:70]}  {kill.faults or 'sound'}")
    print(json.dumps(figures["account"]))
    sys.exit(bool(figures["account"]["faults"] or any(kill.faults for kill in kills)))


if __name__ == "__main__":
    os.environ.pop("RAY_ADDRESS", None)
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.kill_flow")
    parser.add_argument("--seed", type=int, default=0)
    main(parser.parse_args().seed)
