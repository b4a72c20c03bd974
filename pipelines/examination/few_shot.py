"""Training questions -> the answered examples that go before a test question, none of them of its image or article."""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from infra.digests import digest_json
from infra.errors import InputError
from pipelines.inference import prompts
from pipelines.inference.requests import ExampleTurn
from pipelines.records import Question, Split, tables
from pipelines.records.entries import Entry

_CANDIDATES = 1024  # of a source: far more than any question shares an article with


class FewShot:
    """The candidates of each source, in a seeded order.

    The first that fit are taken, so that nearly all questions have the same examples: an engine reads them once.
    """

    def __init__(self, candidates: Mapping[str, Sequence[Question]], source: str | None) -> None:
        self._candidates = candidates
        self._source = source

    @classmethod
    def drawn(cls, questions_artifact: Path, source: str | None, seed: int) -> "FewShot":
        """From the training questions that may teach. source: that lends them to all; None for each its own."""
        kept: dict[str, list[tuple[str, Question]]] = {}
        for question in tables.stream(questions_artifact, Question, split=Split.TRAIN):
            if question.evaluation_only or (source or question.source) != question.source:
                continue
            own = kept.setdefault(question.source, [])
            own.append((digest_json([seed, question.id]), question))
            if len(own) >= 2 * _CANDIDATES:
                own[:] = _first(own)
        return cls({name: [question for _, question in _first(own)] for name, own in kept.items()}, source)

    def before(self, question: Question, entry: Entry, *, final_line: bool) -> tuple[ExampleTurn, ...]:
        """The entry's examples for a question, in the entry's own words. Raises InputError when there are too few."""
        taken: list[Question] = []
        for candidate in self._candidates.get(self._source or question.source, ()):
            if len(taken) == entry.num_shots:
                break
            if not any(share_an_origin(candidate, other) for other in (question, *taken)):
                taken.append(candidate)
        if len(taken) < entry.num_shots:
            raise InputError(
                f"{entry} needs {entry.num_shots} training questions of {self._source or question.source} that share "
                f"no image, figure or article with question {question.id}, and there are {len(taken)}. Name a source "
                f"that has more, --set examination.few_shot_source=NAME, of {', '.join(self._candidates) or 'none'}, "
                "or leave the entry out of examination.plan."
            )
        return tuple(
            ExampleTurn(
                prompt=prompts.words(each, entry.prompt, final_line=final_line).user,
                images=each.images,
                image_digests=each.image_digests,
                answer=prompts.example_answer(each, entry.prompt),
            )
            for each in taken
        )


def share_an_origin(one: Question, other: Question) -> bool:
    """Whether two questions have an image, a figure or an article in common, as far as these are known."""
    return (
        not set(one.image_digests).isdisjoint(other.image_digests)
        or bool(one.figure and one.figure == other.figure)
        or bool(one.article and one.article == other.article)
    )


def _first(candidates: Iterable[tuple[str, Question]]) -> list[tuple[str, Question]]:
    return heapq.nsmallest(_CANDIDATES, candidates, key=lambda candidate: candidate[0])
