"""Questions and a plan -> how much an examination asks, and how long that takes, as far as it was measured or said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import manifest
from infra.figures import SECONDS_PER_HOUR, Figure, figure
from infra.resources import ClusterShape
from pipelines.examination.config import ExaminationConfig
from pipelines.records import TAUGHT, Question, Split, tables
from pipelines.records.entries import PREFILLS, Entry
from pipelines.teaching.estimate import unread

_LEAST_ANSWERS = 100  # asked in a run, before its speed says anything


def estimate(
    config: ExaminationConfig, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
) -> dict[str, Any]:
    """Tokens that are written and hours, and the number of answers. run_dir: whose questions are asked."""
    questions = manifest.find(run_dir / "questions") if run_dir else None
    if questions is None:
        return dict.fromkeys(("tokens", "hours"), Figure(None, unread(run_dir)))
    num_questions = questions.tally["rows"].get(Split.TEST, 0)
    num_answers = _num_answers(config, questions.path, num_questions)
    asked = f"{num_answers:,} answers"
    last = manifest.find(run_dir / "examination") if run_dir else None
    made, seconds = (last.tally["metrics"].get(name, 0) for name in ("attempts_now", "seconds_now")) if last else (0, 0)
    if last is None or made < _LEAST_ANSWERS or not seconds:
        most = max(map(config.tokens_for, config.by_arm()))
        tokens = Figure(None, f"no answer is measured yet; at most {most:,} tokens of each of {asked}")
        speed, origin = config.expected_answers_per_s, "from the recipe"
    else:
        mean = last.tally["metrics"]["output_tokens_now"] / made
        tokens = figure(round(num_answers * mean), f"{asked} x {mean:.0f} tokens written, measured the last time")
        speed, origin = made / seconds, "measured the last time"
    hours = Figure(None, f"no speed is measured yet: --set examination.expected_answers_per_s=ANSWERS, of {asked}")
    if speed:
        hours = figure(num_answers / speed / SECONDS_PER_HOUR, f"{asked} / {speed:.3g} a second, {origin}")
    return {"tokens": tokens, "hours": hours, "answers": num_answers, "questions": num_questions}


def _num_answers(config: ExaminationConfig, questions_artifact: Path, num_questions: int) -> int:
    """One for each question and entry, or for each of its rotations there, and those that are asked for again; some
    conditions leave a few questions out, which are counted here."""
    entries = [entry for entry in config.entries() for _ in range(_num_models(entry, config))]
    num_circular = sum(entry.circular for entry in entries)
    num_rotated = _num_options(questions_artifact) if num_circular else 0
    num_repeated = round(config.repeat_share * num_questions * sum(not entry.prefilled for entry in entries))
    num_beginnings = sum(entry.prefilled for entry in entries) * (len(PREFILLS) - 1)
    return num_questions * (len(entries) - num_circular + num_beginnings) + num_rotated * num_circular + num_repeated


def _num_models(entry: Entry, config: ExaminationConfig) -> int:
    """How many models are asked it: an adapter for each seed."""
    return config.seeds if entry.arm in TAUGHT else 1


def _num_options(questions_artifact: Path) -> int:
    """Options of all test questions together."""
    splits, options = tables.columns(questions_artifact, Question, ("split", "options"))
    return sum(len(own) for split, own in zip(splits, options, strict=True) if split == Split.TEST)
