"""Lines of a batch's result files -> attempts, found by the request that they answer.

They come from elsewhere: whatever a line holds, it is an attempt by the rules of an engine's own answers, or counted.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from infra.errors import InputError, first_line
from pipelines.inference import jsonl
from pipelines.inference.backends.backend import RowError
from pipelines.inference.backends.chat import completion
from pipelines.inference.backends.client import refusal
from pipelines.inference.ledger import Attempt
from pipelines.inference.requests import Request
from pipelines.inference.worker import failed, judged

_CUSTOM_ID = re.compile(r"(?P<id>[0-9a-f]{32})-(?P<attempt>0|[1-9][0-9]{0,3})")
_ERROR_CODE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_LAST_STATUS = 599


def custom_id(request: Request, number: int) -> str:
    """How a line names its request, and which attempt at it this is."""
    return f"{request.id}-{number}"


def attempt_of(request: Request, options: tuple[str, ...], number: int, result: dict[str, Any]) -> Attempt:
    """A result as an attempt, by the rules of an engine's own answers."""
    try:
        return judged(request, request.seed(number), completion(_body(result)), options)
    except RowError as error:
        return failed(request, request.seed(number), str(error))


def _body(result: dict[str, Any]) -> Any:
    """The chat completion in a result; raises RowError when it is said that there is none."""
    error, response = result.get("error"), result.get("response")
    answered = response if isinstance(response, dict) else {}
    status = answered.get("status_code")
    if isinstance(status, int) and status != HTTPStatus.OK and HTTPStatus.CONTINUE <= status <= _LAST_STATUS:
        raise RowError(refusal(status, answered.get("body") or error))
    if error is not None:
        code = error.get("code") if isinstance(error, dict) else None
        raise RowError(code if isinstance(code, str) and _ERROR_CODE.fullmatch(code) else "batch_error")
    if status != HTTPStatus.OK or isinstance(status, bool):
        raise RowError("answer_is_no_chat_completion")
    return answered.get("body")


class Results:
    """The lines of result files, found by the request that they answer; 21 bytes each are held."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.num_unreadable = self.num_strangers = 0
        places = jsonl.Places()
        for number, path in enumerate(paths):
            for offset, line in _lines(path):
                result = _parsed(line)
                named = _named(result)
                self.num_unreadable += result is None
                self.num_strangers += result is not None and named is None
                if named is not None:
                    places.add(named[0], number, offset)
        keys, files, offsets = places.arrays()
        order = np.argsort(keys, kind="stable")
        self._keys, self._files, self._offsets = keys[order], files[order], offsets[order]
        self._taken = np.zeros(len(order), bool)

    def __len__(self) -> int:
        """How many name a request."""
        return len(self._keys)

    @property
    def num_taken(self) -> int:
        """How many were given out."""
        return int(self._taken.sum())

    def __contains__(self, request_id: str) -> bool:
        """Whether there may be a result for a request."""
        place = np.searchsorted(self._keys, np.uint64(jsonl.key_of(request_id)))
        return bool(place < len(self._keys) and self._keys[place] == jsonl.key_of(request_id))

    def of(self, ids: Sequence[str]) -> Iterator[tuple[int, list[tuple[int, dict[str, Any]]]]]:
        """For each of these requests that has results not given out yet: its place, and attempt number and result."""
        wanted = jsonl.keys_of(ids)
        first = np.searchsorted(self._keys, wanted, "left")
        last = np.searchsorted(self._keys, wanted, "right")
        for place in np.flatnonzero(last > first):
            answers = list(self._load(ids[place], range(first[place], last[place])))
            if answers:
                yield int(place), sorted(answers, key=lambda answer: answer[0])

    def _load(self, request_id: str, places: Iterable[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        for place in places:
            if self._taken[place]:
                continue  # two questions without their images can be the same request
            result = _parsed(jsonl.line_at(self._paths[self._files[place]], int(self._offsets[place])))
            named = _named(result)
            if result is not None and named is not None and named[0] == request_id:
                self._taken[place] = True
                yield named[1], result


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each line that is not blank; of one that is too long to be a result, only a beginning."""
    if path.exists() and not path.is_file():  # a pipe can be read once, and may never end
        raise InputError(f"The results {path} are no file. Write what is given out into one first.")
    try:
        for offset, line in jsonl.lines(path):
            if line.strip():
                yield offset, line
    except OSError as error:
        raise InputError(f"The results {path} cannot be read: {first_line(error)}") from error


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        result = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) else None


def _named(result: dict[str, Any] | None) -> tuple[str, int] | None:
    """The request that a result says it answers, and the number of the attempt."""
    custom_id = result.get("custom_id") if result else None
    named = _CUSTOM_ID.fullmatch(custom_id) if isinstance(custom_id, str) else None
    return (named["id"], int(named["attempt"])) if named else None
