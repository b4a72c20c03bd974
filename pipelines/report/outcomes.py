"""Answer sheets -> what became of each question: who answers it right, which ones nobody does, and which to look at."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.answer_sheets import KINDS, AnswerSheet, Asked, ExaminedSet
from pipelines.examination.plan import AnalysisPlan
from pipelines.records import LETTERS, Condition

RIGHT, WRONG, NO_LETTER, REFUSED, NOT_ASKED = "rwnx-"
_LEAST_MODELS = 2  # whose misses say anything about a question
_MOST_MISSED = 40  # shown of those that all models miss


def columns(examined: ExaminedSet) -> dict[Asked, AnswerSheet]:
    """The sheets that count, in their order: one column of what can be looked through."""
    return {key: sheet for key, sheet in examined.sheets.items() if key.is_main}


def outcomes(sheet: AnswerSheet) -> NDArray[np.str_]:
    """RIGHT, WRONG, REFUSED, NO_LETTER for another reason, or NOT_ASKED, (n,)."""
    none = np.where(sheet.missing == KINDS.index("refusal"), REFUSED, NO_LETTER)
    found = np.where(sheet.letters < 0, none, np.where(sheet.right, RIGHT, WRONG))
    return np.where(sheet.asked, found, NOT_ASKED)


def patterns(examined: ExaminedSet) -> list[str]:
    """The outcomes of each question, a character for each column, (n,)."""
    own = [outcomes(sheet) for sheet in columns(examined).values()]
    return ["".join(each) for each in zip(*own, strict=True)] if own else [""] * len(examined.ids)


def missed_by_all(examined: ExaminedSet) -> dict[str, Any] | None:
    """Questions that every model misses under the real image: those first whose models agree most on another letter,
    since their gold answer may be wrong. None where fewer than two answered the same questions.

    expected: how many there would be if models missed questions independently of one another.
    """
    sheets = [sheet for key, sheet in columns(examined).items() if key.condition == Condition.REAL]
    inside = np.logical_and.reduce([sheet.asked for sheet in sheets]) if len(sheets) >= _LEAST_MODELS else np.array([])
    if not inside.any():
        return None
    right = np.stack([sheet.right for sheet in sheets], axis=1)
    missed = np.flatnonzero(inside & ~right.any(axis=1))
    letters = np.stack([sheet.letters for sheet in sheets], axis=1)[missed]
    counts = np.stack([(letters == number).sum(axis=1) for number in range(examined.lengths.shape[1])], axis=1)
    agreed = counts.max(axis=1, initial=0)
    order = sorted(range(len(missed)), key=lambda at: (-agreed[at], examined.ids[missed[at]]))[:_MOST_MISSED]
    return {
        "source": examined.source,
        "file": examined.file,
        "n": int(inside.sum()),
        "models": len(sheets),
        "missed": len(missed),
        "expected": round(float(inside.sum() * (1 - right[inside].mean(axis=0)).prod()), 1),
        "questions": [
            {
                "id": examined.ids[missed[at]],
                "gold": LETTERS[examined.gold[missed[at]]],
                "most_answered": LETTERS[int(counts[at].argmax())] if agreed[at] else None,
                "times": int(agreed[at]),
            }
            for at in order
        ],
    }


def chosen(
    sets: Sequence[ExaminedSet], first: Mapping[str, object], plan: AnalysisPlan | None, count: int
) -> list[str]:
    """Ids of at most `count` questions to look through: `first` the ones named, then of each kind of outcome of each
    set in turn the one with the next lowest id, so that a rare kind is there as fully as a frequent one."""
    turns: list[tuple[int, int, str, str]] = []
    for number, examined in enumerate(sets):
        kinds: dict[str, list[str]] = {}
        asked = zip(examined.ids, _kinds(examined, plan), strict=True) if columns(examined) else ()
        for question_id, kind in asked:
            kinds.setdefault(kind, []).append(question_id)
        turns += [
            (turn, number, kind, each) for kind, own in kinds.items() for turn, each in enumerate(sorted(own)[:count])
        ]
    in_turn = [each for *_, each in sorted(turns)]
    return list(dict.fromkeys([*first, *in_turn]))[:count]


def pair(examined: ExaminedSet, plan: AnalysisPlan | None) -> tuple[int, int]:
    """The two columns to begin with: those of the primary comparison, comparator first, or else the first two under the
    real image, or the first two of all; the same one twice where there is one."""
    keys = list(columns(examined))
    wanted = [plan.primary.comparator, plan.primary.treatment] if plan and plan.primary else []
    compared = [next((at for at, key in enumerate(keys) if key.entry == entry), None) for entry in wanted]
    found = [at for at in compared if at is not None]
    if len(found) < len(wanted) or not wanted:
        found = [at for at, key in enumerate(keys) if key.condition == Condition.REAL]
        found += [at for at in range(len(keys)) if at not in found]
    return (found[0], found[min(1, len(found) - 1)]) if found else (0, 0)


def _kinds(examined: ExaminedSet, plan: AnalysisPlan | None) -> list[str]:
    """The outcomes of the two columns to begin with."""
    first, second = pair(examined, plan)
    return [pattern[first : first + 1] + pattern[second : second + 1] for pattern in patterns(examined)]
