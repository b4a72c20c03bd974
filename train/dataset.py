"""An arm's examples -> those that are trained on and those that are watched: the same questions in every arm. [edge]"""

import dataclasses
from collections.abc import Set
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.inference.logprobs import TopTokens
from pipelines.records import Question, Split, TrainingExample, tables
from train import distillation
from train.encoding import Encoded, encode, unusable_questions
from train.job import FitJob, Watched

_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class DatasetSplit:
    """The encoded examples of an arm. train: to train on. held_out: for validation. watched: which questions these are
    about. num_rows: of the arm's table. reasons: how many rows were left out of both, by reason."""

    train: list[Encoded]
    held_out: list[Encoded]
    watched: Watched
    num_rows: int
    reasons: dict[str, int]


def read(job: FitJob, processor: Any, vocab_size: int) -> DatasetSplit:
    """Read, split and encode the arm's examples. vocab_size: number of the student's logits.

    A question that cannot be trained on in one of the compared arms is left out of all of them. Raises InputError when
    a part of the split is empty.
    """
    config = job.config
    rows = tables.read(job.examples, TrainingExample)
    top_logprobs: dict[str, TopTokens] = {}
    if config.distillation_weight:
        top_logprobs = distillation.read_top_logprobs(job.rationales, rows, processor.tokenizer, vocab_size)
    others = chain.from_iterable(tables.stream(folder, TrainingExample) for folder in job.compared)
    unusable = unusable_questions(others, job.images, processor, config.max_length) if job.compared else {}
    questions, watched = watched_questions(rows, config.validation_share, job.images)

    def encoded(is_watched: bool) -> tuple[list[Encoded], dict[str, int]]:
        own = [row for row in rows if (row.question_id in questions) == is_watched]
        return encode(own, job.images, processor, config.max_length, top_logprobs, unusable) if own else ([], {})

    (train, train_reasons), (held_out, held_out_reasons) = encoded(False), encoded(True)
    names = sorted({*train_reasons, *held_out_reasons})
    reasons = {name: train_reasons.get(name, 0) + held_out_reasons.get(name, 0) for name in names}
    if not train:
        raise InputError(
            f"None of {len(rows)} examples can be trained on: {len(held_out)} are held out, the others are left out "
            f"({reasons}). Set fit.max_length to more, or fit.validation_share to less."
        )
    if watched and not held_out:
        raise InputError(
            f"None of {len(rows)} examples is left to be watched: {reasons}. Set fit.max_length to more, or with "
            "another questions.curation.validation_share other questions are held out."
        )
    return DatasetSplit(train, held_out, watched, len(rows), reasons)


def watched_questions(rows: list[TrainingExample], share: float, questions_artifact: Path) -> tuple[set[str], Watched]:
    """The ids of the questions that are watched and not trained on, and which ones these are.

    They are those of the validation split. Where no example is of one, a share of the questions is drawn, from 0 to 1.
    Every arm and every seed has the same ones, because all arms have examples of the same questions.
    """
    questions = {row.question_id for row in rows if row.split == Split.VALIDATION}
    if questions:
        return questions, Watched.VALIDATION
    if not share:
        return set(), Watched.NOTHING
    return drawn_questions(questions_artifact, {row.question_id for row in rows}, share), Watched.DRAWN


def drawn_questions(questions_artifact: Path, among: Set[str], share: float) -> set[str]:
    """A share of these questions, by id: whole groups of all that have an article, a figure or an image in common.

    Drawn by the digest of a group's first id; at least one group, that of the lowest digest.
    """
    columns = tables.columns(questions_artifact, Question, ("id", "article", "figure", "image_digests"))
    own = [row for row in zip(*columns, strict=True) if row[0] in among]
    groups: dict[int, list[str]] = {}
    for (question_id, *_), group in zip(own, _connected([_shared(*row[1:]) for row in own]), strict=True):
        groups.setdefault(group, []).append(question_id)
    drawn = sorted((digest_bytes(min(group).encode())[:_DIGITS], group) for group in groups.values())
    return {
        question_id
        for place, (digits, group) in enumerate(drawn)
        if not place or int(digits, 16) < share * 16**_DIGITS
        for question_id in group
    }


def _shared(article: str, figure: str, image_digests: list[str]) -> list[tuple[str, str]]:
    """What questions may have in common; what is not known is common to none."""
    named = [("article", article), ("figure", figure), *(("image", digest) for digest in image_digests)]
    return [(kind, name) for kind, name in named if name]


def _connected(shared: list[list[tuple[str, str]]]) -> list[int]:
    """The number of each question's group: two are in one group when a chain of things in common leads from one to the
    other. shared: what each question may have in common with others."""
    from scipy.sparse import coo_array  # takes a while to import, and most fits do not draw
    from scipy.sparse.csgraph import connected_components

    places: dict[tuple[str, str], int] = {}
    edges = [
        (number, len(shared) + places.setdefault(thing, len(places)))
        for number, things in enumerate(shared)
        for thing in things
    ]
    size = len(shared) + len(places)
    ends = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(edges), dtype=np.int8), (ends[0], ends[1])), shape=(size, size))
    groups: list[int] = connected_components(graph, directed=False)[1][: len(shared)].tolist()
    return groups
