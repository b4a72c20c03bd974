"""Questions and a plan -> how much an examination asks, and how long that takes, as far as it was measured or said."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import manifest
from infra.figures import SECONDS_PER_HOUR, Figure, figure
from infra.resources import ClusterShape
from pipelines.examination.config import ExaminationConfig
from pipelines.records import Split
from pipelines.teaching.estimate import unread


def estimate(
    config: ExaminationConfig, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
) -> dict[str, Any]:
    """Tokens that are written and hours, and the number of answers. run_dir: whose questions are asked."""
    questions = manifest.find(run_dir / "questions") if run_dir else None
    if questions is None:
        return dict.fromkeys(("tokens", "hours"), Figure(None, unread(run_dir)))
    num_questions = questions.tally["rows"].get(Split.TEST, 0)
    num_answers = num_questions * len(config.plan)
    asked = f"{num_answers:,} answers"
    last = manifest.find(run_dir / "examination") if run_dir else None
    if last is None or not (made := last.tally["rows"].get("asked")) or not last.manifest.seconds:
        tokens = Figure(None, f"no answer is measured yet; at most {config.max_tokens:,} tokens of each of {asked}")
        speed, origin = config.expected_answers_per_s, "from the recipe"
    else:
        mean = last.tally["metrics"]["output_tokens"] / made
        tokens = figure(round(num_answers * mean), f"{asked} x {mean:.0f} tokens written, measured the last time")
        speed, origin = made / last.manifest.seconds, "measured the last time"
    hours = Figure(None, f"no speed is measured yet: --set examination.expected_answers_per_s=ANSWERS, of {asked}")
    if speed:
        hours = figure(num_answers / speed / SECONDS_PER_HOUR, f"{asked} / {speed:.3g} a second, {origin}")
    return {"tokens": tokens, "hours": hours, "answers": num_answers, "questions": num_questions}
