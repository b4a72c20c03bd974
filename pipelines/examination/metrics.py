"""Predictions -> scores: numbers that never stand alone, each with its n and its interval."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pipelines.records import Arm, Condition, Prediction, Question


def examination(predictions: Iterable[Prediction]) -> list[dict[str, Any]]:
    """One entry for each model under each condition on each set, with the strata apart.

    A set is a source's file; sets come in the order in which they were asked. Unscored answers count as wrong.
    """
    groups: dict[tuple[str, str, str, str, str], list[Prediction]] = {}
    for p in predictions:
        groups.setdefault((p.source, p.file, p.model, p.arm, p.condition), []).append(p)
    entries = []
    for (source, file, model, arm, condition), group in groups.items():
        strata = sorted({prediction.stratum for prediction in group})
        entries.append(
            {"source": source, "file": file, "model": model, "arm": arm, "condition": condition, **score(group)}
            | {
                "strata": {name: score([p for p in group if p.stratum == name]) for name in strata if name},
                "letters": dict(sorted(Counter(p.letter or "none" for p in group).items())),
            }
        )
    sets = list(dict.fromkeys((entry["source"], entry["file"]) for entry in entries))
    arms, conditions = list(Arm), list(Condition)
    return sorted(
        entries,
        key=lambda e: (
            sets.index((e["source"], e["file"])),
            arms.index(Arm(e["arm"])),
            conditions.index(Condition(e["condition"])),
        ),
    )


def score(group: list[Prediction]) -> dict[str, Any]:
    """asked = scored + unscored; accuracy = correct / asked, with its 95 % Wilson interval."""
    asked = len(group)
    unscored = sum(prediction.letter is None for prediction in group)
    correct = sum(prediction.letter == prediction.gold for prediction in group)
    return {
        "asked": asked,
        "scored": asked - unscored,
        "unscored": unscored,
        "correct": correct,
        "accuracy": round(correct / asked, 4) if asked else None,
        "interval": [round(end, 4) for end in wilson_interval(correct, asked)],
    }


def baselines(asked: Iterable[Question]) -> list[dict[str, Any]]:
    """For each set what needs no model: chance by the number of options, and always the most frequent gold letter."""
    sets: dict[tuple[str, str], list[Question]] = {}
    for question in asked:
        sets.setdefault((question.source, question.file), []).append(question)
    return [{"source": source, "file": file, **_baseline(group)} for (source, file), group in sets.items()]


def _baseline(asked: list[Question]) -> dict[str, Any]:
    letters = Counter(question.gold for question in asked)
    letter, count = letters.most_common(1)[0]
    chance = sum(1 / len(question.options) for question in asked) / len(asked)
    return {
        "n": len(asked),
        "chance": round(chance, 4),
        "majority_letter": letter,
        "majority_letter_accuracy": round(count / len(asked), 4),
        "gold_letters": dict(sorted(letters.items())),
    }


def wilson_interval(correct: int, asked: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (E. B. Wilson, 1927), both ends within [0, 1]; (0, 1) when nothing was
    asked.

    Raises ValueError when `correct` is no count out of `asked`.
    """
    if not 0 <= correct <= asked:
        raise ValueError(f"{correct} correct of {asked} asked")
    if asked == 0:
        return 0.0, 1.0
    from scipy.stats import binomtest  # half a second, which only a report needs

    interval = binomtest(correct, asked).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
