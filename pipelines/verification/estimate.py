"""Rationales -> how many the second reader may be asked about, and how long that takes, as far as it is known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra import manifest
from infra.figures import SECONDS_PER_HOUR, Figure, figure
from infra.resources import ClusterShape
from pipelines.records import Condition, Rationale, Status, tables
from pipelines.verification.config import VerifyConfig
from pipelines.verification.reread import METRIC

_LEAST_ANSWERS = 100  # asked in a run, before its speed says anything
_UNREAD = "the teacher has not explained the questions yet, so nobody knows how many rationales are read once more"


def estimate(
    config: VerifyConfig, run_dir: Path | None, makes: Sequence[str] = (), cluster: ClusterShape | None = None
) -> dict[str, Any]:
    """Tokens that the second reader reads and writes, hours, and the number of requests at most; nothing where the
    recipe names none. run_dir: whose rationales are read."""
    reread = config.reread
    if reread is None:
        return {}
    rationales = manifest.find(run_dir / "rationales") if run_dir else None
    if rationales is None:
        return dict.fromkeys(("tokens", "hours"), Figure(None, _UNREAD))
    asked = num_requests(rationales.path)
    told = f"at most {asked:,} rationales, if all are accepted before"
    last = manifest.find(run_dir / "verdicts") if run_dir else None
    metrics = last.tally["metrics"] if last else {}
    made, seconds = metrics.get(f"{METRIC}attempts_now", 0), metrics.get(f"{METRIC}seconds_now", 0)
    if made < _LEAST_ANSWERS or not seconds:
        tokens = Figure(None, f"no answer is measured yet; at most {reread.max_tokens:,} tokens for each of {told}")
        speed, origin = reread.expected_answers_per_s, "from the recipe"
    else:
        mean = sum(metrics[f"{METRIC}{name}_tokens_now"] for name in ("prompt", "output")) / made
        tokens = figure(round(asked * mean), f"{told} x {mean:.0f} tokens, measured the last time")
        speed, origin = made / seconds, "measured the last time"
    hours = Figure(None, f"no speed is measured yet: --set verify.reread.expected_answers_per_s=ANSWERS, of {told}")
    if speed:
        hours = figure(asked / speed / SECONDS_PER_HOUR, f"{told} / {speed:.3g} a second, {origin}")
    return {"tokens": tokens, "hours": hours, "requests": {"at_most": asked}}


def num_requests(rationales_artifact: Path) -> int:
    """How many rationales could be accepted: those that were answered with the question's own images."""
    statuses, conditions = tables.columns(rationales_artifact, Rationale, ("status", "condition"))
    return sum(
        status == Status.ANSWERED and condition == Condition.REAL
        for status, condition in zip(statuses, conditions, strict=True)
    )
