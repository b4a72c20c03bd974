"""Counts of failed requests -> whether the stage goes on; and if not, why, with the most frequent reasons."""

from collections import Counter
from collections.abc import Mapping

from infra.errors import InputError

# Reasons of requests that the model answered, if with nothing of use.
_ANSWERED = ("no_answer", "truncated")
_MOST_UNANSWERED = 0.5
_SHOWN_REASONS = 3


def check(
    what: str, asked: int, reasons: Mapping[str, int], limit: float, stage: str, *, planned: int | None = None
) -> None:
    """Raise InputError when a larger share than the limit failed; or, whatever the limit, when most were not answered
    at all, which is no weakness of the model's.

    what: the requests that were asked, for the message. reasons: of all that failed or were quarantined. planned: how
    many there will be in the end, where they are not all asked yet: the limit is a share of these.
    """
    counted = Counter(reasons)
    failed = counted.total()
    unanswered = failed - sum(counted[reason] for reason in _ANSWERED)
    allowed = limit * (planned or asked)
    is_gone = unanswered > _MOST_UNANSWERED * asked
    if failed <= allowed and not is_gone:
        return
    listed = ", ".join(f"{reason} {count}" for reason, count in counted.most_common(_SHOWN_REASONS))
    problem = f"{failed} of {asked} {what} failed ({listed})"
    if is_gone:
        raise InputError(f"{problem}: most were not answered. What succeeded is kept. Mend that, run the stage again.")
    raise InputError(
        f"{problem}: more than the recipe's share of {limit:g}. What succeeded is kept. Mend the cause, or allow more "
        f"with --set {stage}.max_failed_share=SHARE, and run the stage again."
    )
