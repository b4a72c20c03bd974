"""`report.json`: its keys, what they hold, and the version of both.

The version is raised when a key goes away or means something else, and not when one is added.
"""

from collections.abc import Mapping
from typing import Any

from infra.errors import InputError

SCHEMA = "preceptor.report/5"
KEYS = {
    "schema": "this version",
    "title": "of the page",
    "notes": "sentences that a reader must know",
    "accounting": "artifact -> rows, and what was rejected and quarantined, by reason",
    "verdicts": "what became of the teacher's rationales; empty where that was not counted",
    "curation": "what questions were kept back for, by level and reason",
    "examination": "one for each set, model, way to ask and condition: asked = scored + unscored, accuracy, interval",
    "baselines": "one for each set: chance, the most frequent right letter, the longest and the shortest option",
    "plan": "how the examination was to be analysed, written before its first question; null where none was",
    "confidence": "of every interval",
    "interval_kind": "of every accuracy",
    "comparisons": "two models on the same questions: second minus first, with tests; family says if it was planned",
    "grounding": "a model with the real image and under another condition; each measure with its formula",
    "circular": "accuracy over all rotations of the options",
    "repeats": "answers that changed when the same was asked again",
    "seeds": "fits of one arm with several seeds",
    "faithfulness": "answers that had to go on from a beginning",
    "power": "one for each set: which difference it can show",
    "missed_by_all": "one for each set: questions that no model answers right",
    "asked_with": "settings of the examination, and the words of each prompt with their digest",
    "inputs": "artifact -> digest",
    "made_with": "artifact -> code revision and package versions",
    "seconds": "artifact -> how long it took to make",
}


def check(report: Mapping[str, Any]) -> None:
    """Raise InputError for a report of another version, or with other keys than this one has."""
    if report.get("schema") != SCHEMA:
        raise InputError(
            f"The report has the schema {report.get('schema')!r}, and this version knows {SCHEMA}. Make it again: "
            "python -m pipelines.report RECIPE --run-dir DIR"
        )
    if other := sorted(KEYS.keys() ^ report.keys()):
        raise InputError(f"A report of {SCHEMA} has other keys: {', '.join(other)} is missing or unknown.")
