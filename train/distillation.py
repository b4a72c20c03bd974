"""A teacher's likeliest tokens -> what a student is taught beside the tokens of its target.

Shapes: T tokens that the teacher wrote, K of the likeliest ones in each one's place, P places of a target.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import InputError
from pipelines.inference.logprobs import TopTokens, read_row, vocabulary_digest
from pipelines.records import TopLogprobs, TrainingExample, tables


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Told:
    """What the teacher held likely at the first P places of a target: the likeliest tokens_PK, and their logprobs_PK in
    float16."""

    tokens_PK: np.ndarray
    logprobs_PK: np.ndarray

    @property
    def shares_PK(self) -> np.ndarray:
        """Their probabilities, in float32."""
        shares_PK: np.ndarray = np.exp(self.logprobs_PK.astype(np.float32))
        shares_PK /= np.maximum(1, shares_PK.sum(axis=1, keepdims=True))  # rounded, they can be more than all
        return shares_PK


def read(folder: Path, examples: Iterable[TrainingExample], tokenizer: Any, num_words: int) -> dict[str, TopTokens]:
    """What was kept for these examples, by the rationale that each rests on.

    folder: the rationales artifact. num_words: that the student gives logits for. Raises InputError when nothing was
    kept, or it is in other tokens than the student's.
    """
    wanted = {example.rationale_id for example in examples}
    found = {row.rationale_id: row for row in tables.stream(folder, TopLogprobs) if row.rationale_id in wanted}
    if not found:
        raise InputError(
            f"{folder} holds no top_logprobs, which fit.distillation_weight is to learn from. Run the flow with --set "
            "teach.top_logprobs=8, or set fit.distillation_weight=0."
        )
    own, theirs = vocabulary_digest(tokenizer.get_vocab()), {row.vocabulary for row in found.values()}
    if theirs != {own}:
        raise InputError(
            f"Teacher and student have different tokenizers (vocabularies {', '.join(sorted(theirs))} and {own}), so "
            f"that what {tokenizer.name_or_path} reads is not what the teacher wrote. Set fit.distillation_weight=0, "
            "or fit.base=... to a model of the teacher's family."
        )
    known = {name: read_row(row) for name, row in found.items()}
    largest = max(int(each.tokens_TK.max(initial=0)) for each in known.values())
    if largest >= num_words:
        raise InputError(
            f"The teacher holds likely token {largest}, and the student has {num_words}. Set fit.distillation_weight=0."
        )
    return known


def told(target_ids: list[int], rationale_id: str, known: Mapping[str, TopTokens]) -> Told | None:
    """What the teacher held likely along a target, as far as it wrote the very same tokens; None where it did not.

    From the first other token on, what it says is about another text.
    """
    likeliest = known.get(rationale_id)
    if likeliest is None:
        return None
    length = min(len(target_ids), len(likeliest.written_T))
    is_other = np.array(target_ids[:length], np.int32) != likeliest.written_T[:length]
    num_same = int(is_other.argmax()) if is_other.any() else length
    if not num_same:
        return None
    # Copies, since a view would hold on to all that the teacher wrote.
    return Told(likeliest.tokens_TK[:num_same].copy(), likeliest.logprobs_TK[:num_same].copy())
