"""Accepted verdicts on a question -> those that teach."""

from collections.abc import Sequence

from pipelines.records import Verdict
from pipelines.verification.checks import words
from pipelines.verification.config import Selection


def choose(accepted: Sequence[Verdict], selection: Selection, keep: int) -> list[int]:
    """The places of at most `keep` of a question's accepted verdicts, the best one first; of equals, the earlier wins.

    Rationales that were written with the gold answer told are chosen only where there are no others.
    """
    unaided = [place for place, verdict in enumerate(accepted) if not verdict.hinted]
    places = unaided or list(range(len(accepted)))
    if selection is Selection.FIRST or len(places) == 1:
        return places[:keep]
    said = [words(accepted[place].body) for place in places]
    if selection is Selection.SHORTEST:
        order = sorted(range(len(places)), key=lambda each: len(said[each]))
    elif selection is Selection.MOST_AGREED:
        order = _most_agreed([frozenset(each) for each in said])
    else:
        order = _diverse([frozenset(each) for each in said], keep)
    return [places[each] for each in order[:keep]]


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity: words that both texts have, as a share of all their words; 1 where neither has any."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _most_agreed(said: list[frozenset[str]]) -> list[int]:
    """Texts in order of their likeness to all others, the most alike first."""
    # A sum gives the same order as a mean, and each text's likeness to itself, which is always 1, changes nothing.
    likeness = [sum(similarity(own, other) for other in said) for own in said]
    return sorted(range(len(said)), key=lambda each: -likeness[each])


def _diverse(said: list[frozenset[str]], keep: int) -> list[int]:
    """The first text, then in each turn the one that is least like any text already chosen."""
    chosen: list[int] = []
    nearest = [0.0] * len(said)
    while len(chosen) < min(keep, len(said)):
        best = min((each for each in range(len(said)) if each not in chosen), key=lambda each: nearest[each])
        chosen.append(best)
        nearest = [max(near, similarity(own, said[best])) for near, own in zip(nearest, said, strict=True)]
    return chosen
