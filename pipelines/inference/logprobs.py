"""The likeliest tokens at each place of an answer, with their logprobs: kept for students that read the same tokens.

Shapes: T written tokens, K top tokens at each place.
"""

import base64
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from infra.digests import digest_json
from pipelines.records import TopLogprobs

_DIGITS = 16
_STORED = ("vocabulary", "num_top", "written", "tokens", "logprobs")


def vocabulary_digest(tokens: Mapping[str, int]) -> str:
    """Digest of a tokenizer's tokens and their numbers: two that have the same one mean the same by a number."""
    return digest_json(sorted(tokens.items(), key=lambda each: each[1]))[:_DIGITS]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class TopTokens:
    """At the place of each written token the top tokens, and their logprobs before any temperature.

    vocabulary: digest of the tokenizer that they are tokens of.
    """

    vocabulary: str
    written_T: np.ndarray
    tokens_TK: np.ndarray
    logprobs_TK: np.ndarray

    @classmethod
    def of(
        cls, vocabulary: str, written: Sequence[int], tokens: Sequence[int], logprobs: Sequence[float], num: int
    ) -> Self:
        """From what vLLM tells flatly: of each place the token that was written, and then the `num` likeliest ones."""
        shape = (len(written), 1 + num)
        return cls(
            vocabulary,
            np.array(written, np.int32),
            np.array(tokens, np.int32).reshape(shape)[:, 1:],
            np.array(logprobs, np.float16).reshape(shape)[:, 1:],
        )

    def as_json(self) -> dict[str, str | int]:
        """As it is written down in a ledger."""
        arrays = (self.written_T, self.tokens_TK, self.logprobs_TK)
        written, tokens, logprobs = (base64.b64encode(each.tobytes()).decode() for each in arrays)
        return {
            "vocabulary": self.vocabulary,
            "num_top": self.tokens_TK.shape[1],
            "written": written,
            "tokens": tokens,
            "logprobs": logprobs,
        }


def is_whole(stored: Mapping[str, Any]) -> bool:
    """Whether this can be what `as_json` gave: every field, of its type, with as many numbers as the others say."""
    try:
        arrays = [base64.b64decode(stored[name], validate=True) for name in ("written", "tokens", "logprobs")]
    except (KeyError, ValueError, TypeError):
        return False
    vocabulary, num = stored.get("vocabulary"), stored.get("num_top")
    if len(stored) != len(_STORED) or not isinstance(vocabulary, str) or type(num) is not int or num < 1:
        return False
    num_written = len(arrays[0]) // 4
    return [len(array) for array in arrays] == [4 * num_written, 4 * num_written * num, 2 * num_written * num]


def row_of(rationale_id: str, stored: Mapping[str, Any]) -> TopLogprobs:
    """The table's row of what `as_json` gave."""
    arrays = {name: base64.b64decode(stored[name]) for name in ("written", "tokens", "logprobs")}
    return TopLogprobs(
        rationale_id=rationale_id,
        vocabulary=stored["vocabulary"],
        num_top=stored["num_top"],
        **arrays,
    )


def read_row(row: TopLogprobs) -> TopTokens:
    """What a row of the table holds."""
    shape = (-1, row.num_top)
    return TopTokens(
        row.vocabulary,
        np.frombuffer(row.written, np.int32),
        np.frombuffer(row.tokens, np.int32).reshape(shape),
        np.frombuffer(row.logprobs, np.float16).reshape(shape),
    )
