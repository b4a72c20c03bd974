"""A teacher's top-k tokens along its rationale -> the top-k at the tokens of a student's target.

Shapes: T tokens that the teacher wrote, K most likely tokens at each of these places, P places of a target.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import InputError
from pipelines.inference.logprobs import TopTokens, read_row, vocabulary_digest
from pipelines.records import Rationale, TopLogprobs, TrainingExample, tables


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TeacherTopK:
    """The teacher's most likely tokens at the first P places of a target: their ids_PK in int32, and logprobs_PK in
    float16."""

    ids_PK: np.ndarray
    logprobs_PK: np.ndarray

    @property
    def probs_PK(self) -> np.ndarray:
        """Their probabilities, in float32; the sum over K is at most 1."""
        probs_PK: np.ndarray = np.exp(self.logprobs_PK.astype(np.float32))
        probs_PK /= np.maximum(1, probs_PK.sum(axis=1, keepdims=True))  # float16 rounding can push the sum above 1
        return probs_PK


def read_top_logprobs(
    folder: Path, examples: Iterable[TrainingExample], tokenizer: Any, vocab_size: int
) -> dict[str, TopTokens]:
    """rationale_id -> the teacher's top logprobs along that rationale, for the rationales of these examples.

    Not for hinted ones: with the gold answer in its prompt the teacher held other tokens likely than the question alone
    makes likely, and the student sees no more than that. They teach by their words all the same.

    folder: the rationales artifact. vocab_size: number of the student's logits. Raises InputError when none was
    recorded, or when teacher and student have different tokenizers.
    """
    told = {name for name, hinted in zip(*tables.columns(folder, Rationale, ("id", "hinted")), strict=True) if hinted}
    wanted = {example.rationale_id for example in examples} - told
    found = {row.rationale_id: row for row in tables.stream(folder, TopLogprobs) if row.rationale_id in wanted}
    if not found:
        raise InputError(
            f"{folder} holds no top_logprobs of a rationale that was written without a hint, which "
            "fit.distillation_weight needs. Run the flow with --set "
            "teach.top_logprobs=8, or set fit.distillation_weight=0."
        )
    own, theirs = vocabulary_digest(tokenizer.get_vocab()), {row.vocabulary for row in found.values()}
    if theirs != {own}:
        raise InputError(
            f"Teacher and student have different tokenizers (vocabularies {', '.join(sorted(theirs))} and {own}), so "
            f"the teacher's token ids mean other tokens to {tokenizer.name_or_path}. Set fit.distillation_weight=0, or "
            "fit.base=... to a model of the teacher's family."
        )
    top_logprobs = {name: read_row(row) for name, row in found.items()}
    largest = max(int(each.tokens_TK.max(initial=0)) for each in top_logprobs.values())
    if largest >= vocab_size:
        raise InputError(
            f"The teacher's top logprobs have token {largest}, and the student has {vocab_size} tokens. Set "
            "fit.distillation_weight=0."
        )
    return top_logprobs


def teacher_topk(target_ids: list[int], rationale_id: str, top_logprobs: Mapping[str, TopTokens]) -> TeacherTopK | None:
    """The teacher's top-k along a target, up to the first token that differs from what the teacher wrote.

    From there on the teacher's distribution belongs to another text. None where already the first token differs, or
    where nothing was recorded for the rationale.
    """
    along_rationale = top_logprobs.get(rationale_id)
    if along_rationale is None:
        return None
    length = min(len(target_ids), len(along_rationale.written_T))
    differs = np.array(target_ids[:length], np.int32) != along_rationale.written_T[:length]
    num_same = int(differs.argmax()) if differs.any() else length
    if not num_same:
        return None
    # Copies: a view would keep the arrays of the whole rationale in memory.
    return TeacherTopK(along_rationale.tokens_TK[:num_same].copy(), along_rationale.logprobs_TK[:num_same].copy())
