"""Questions and a plan -> how much an examination asks, and how long that takes, as far as it was measured or said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import manifest
from infra.figures import SECONDS_PER_HOUR, Figure, figure
from infra.resources import ClusterShape
from pipelines.examination.config import ExaminationConfig
from pipelines.records import TAUGHT, Arm, Split
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
    num_taught = sum(len(conditions) for arm, conditions in config.conditions().items() if arm in TAUGHT)
    num_answers = num_questions * (len(config.plan) + (config.seeds - 1) * num_taught)
    asked = f"{num_answers:,} answers"
    last = manifest.find(run_dir / "examination") if run_dir else None
    made, seconds = (last.tally["metrics"].get(name, 0) for name in ("attempts_now", "seconds_now")) if last else (0, 0)
    if last is None or made < _LEAST_ANSWERS or not seconds:
        most = max(config.max_tokens, config.tokens_for(Arm.TEACHER))
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
