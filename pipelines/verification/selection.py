"""Accepted verdicts of a question -> those that teach."""

from collections.abc import Sequence

from pipelines.records import Verdict
from pipelines.verification.checks import words
from pipelines.verification.config import Selection


def choose(accepted: Sequence[Verdict], selection: Selection, keep: int) -> list[int]:
    """The places of at most `keep` of a question's accepted verdicts, the best first; earlier ones win ties.

    Those that were written with the gold answer told are only chosen where there are no others.
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
    """Share of the words of both texts together that both have; 1 for two texts without any."""
    return len(one & other) / len(one | other) if one or other else 1.0


def _most_agreed(said: list[frozenset[str]]) -> list[int]:
    """The one most like all others first."""
    # The sum orders as the mean does; each is most like itself, all alike.
    likeness = [sum(similarity(own, other) for other in said) for own in said]
    return sorted(range(len(said)), key=lambda each: -likeness[each])


def _diverse(said: list[frozenset[str]], keep: int) -> list[int]:
    """The first, then always the one that is least like any already chosen."""
    chosen: list[int] = []
    nearest = [0.0] * len(said)
    while len(chosen) < min(keep, len(said)):
        best = min((each for each in range(len(said)) if each not in chosen), key=lambda each: nearest[each])
        chosen.append(best)
        nearest = [max(near, similarity(own, said[best])) for near, own in zip(nearest, said, strict=True)]
    return chosen
