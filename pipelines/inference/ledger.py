"""The ledger: every answer of a model, written down the moment it ends, and found again by its request's digest.

A folder for each model with its sampling; in it a file of JSON lines for each start of each worker, which alone appends
to it. Whatever is killed, the lines that were written stand, and half of a last line counts as nothing.
"""

import dataclasses
import errno
import functools
import json
import os
import re
import stat
import sys
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le

from infra.digests import digest_json
from infra.errors import ArtifactError
from infra.manifest import write_json
from pipelines.inference import jsonl, logprobs
from pipelines.inference.config import InferenceConfig
from pipelines.records import LETTERS, Status

# Reasons that would be the same at the next attempt.
_LASTING = frozenset({"prompt_too_long", "refused_by_engine", "engine_died_of_it"})
# Reasons with which an engine or endpoint says that it does not take the request.
REFUSALS = frozenset({"prompt_too_long", "refused_by_engine", "status_400", "status_413", "status_422"})
_ABOUT, _ABOUT_OF_OLD = "model.json", "teacher.json"
_FORM = 2  # of the entries and of the digests by which they are found
_ID = re.compile(r"[0-9a-f]{32}")
_LETTERS = frozenset([None, *LETTERS])
_STATUSES = frozenset([Status.ANSWERED, Status.FAILED, Status.QUARANTINED])


Count = Annotated[int, Ge(0), Le(1 << 40)]
LARGEST_LOGPROB = 1e30  # of any size: what is larger stands for an infinite one
Finite = Annotated[float, Ge(-LARGEST_LOGPROB), Le(LARGEST_LOGPROB)]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One answer of a model to one request, or why there is none. Fields as in Rationale.

    letter: the answer that is read from the text, if any. top_logprobs: `TopTokens` as JSON, where it is kept.
    error: why the text is of no use, or why there is none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"strict": True, "extra": "forbid"}

    id: str
    status: str
    seed: Count
    letter: str | None = None
    text: str = ""
    thoughts: str = ""
    finish_reason: str = "error"
    num_prompt_tokens: Count = 0
    num_output_tokens: Count = 0
    num_stray_tokens: Count = 0
    mean_logprob: Finite | None = None
    min_logprob: Finite | None = None
    top_logprobs: dict[str, Any] | None = None
    error: str | None = None

    @property
    def is_text(self) -> bool:
        """Whether the model wrote something, usable or not."""
        return self.finish_reason != "error"

    @property
    def is_lasting(self) -> bool:
        """Whether it is the row's own doing, not that of an engine, network or provider that may do better later."""
        return self.is_text or self.status == Status.QUARANTINED or self.error in _LASTING


def root_of(place: str | None, run_dir: Path) -> Path:
    """Where the ledger of a run is: at the place that its recipe names, else beside the run folders, which share it."""
    return Path(place) if place else run_dir.parent / "ledger"


def place_of(root: Path, config: InferenceConfig) -> Path:
    """Where the answers of a model with its sampling are below a ledger's root, whether or not there are any yet."""
    return root / f"{digest_json(config.model.identity())[:16]}-{config.sampling.digest[:16]}"


def folder_of(root: Path, config: InferenceConfig) -> Path:
    """The folder of a model's answers below a ledger's root; made when it is not there, with a note that says whose
    answers they are.

    Raises ArtifactError when it cannot be made, or the ledger was written in an older form.
    """
    check_form(root)
    folder = place_of(root, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / _ABOUT).exists():
            model = dataclasses.asdict(config.model)
            write_json(folder / _ABOUT, {"form": _FORM, "model": model, "sampling": config.sampling.identity()})
    except OSError as error:
        raise _unwritable(folder, error) from error
    return folder


def check_form(root: Path) -> None:
    """Raise ArtifactError for a ledger that another version has written: its answers do not say by which settings of
    an engine they were made, and to ask for them again is for its owner to decide."""
    for about in (*root.glob(f"*/{_ABOUT_OF_OLD}"), *root.glob(f"*/{_ABOUT}")):
        if about.name == _ABOUT_OF_OLD or _form_of(about) != _FORM:
            raise ArtifactError(
                f"The ledger {root} was written by another version ({about}), whose answers do not say by which engine "
                "settings they were made, so they cannot be used. Move it away, and everything is asked again; or name "
                "another place: --set teach.ledger=PATH --set examination.ledger=PATH"
            )


def _form_of(about: Path) -> Any:
    try:
        stated = json.loads(about.read_text())
    except (OSError, ValueError):
        return _FORM  # being written by somebody else now, or damaged; what it is about is in the digests
    return stated.get("form") if isinstance(stated, dict) else None


class Writer:
    """Appends attempts to a file of its own; used by one engine."""

    def __init__(self, path: Path) -> None:
        try:
            self._stream = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self._size = os.fstat(self._stream).st_size
        except OSError as error:
            raise _unwritable(path, error) from error
        self._path = path

    def add(self, attempt: Attempt) -> None:
        """Write an attempt down. Raises ArtifactError, with nothing of it left in the file, when it cannot be."""
        line = json.dumps(dataclasses.asdict(attempt), ensure_ascii=False).encode() + b"\n"
        written = 0
        try:
            while written < len(line):
                written += os.write(self._stream, line[written:])
        except OSError as error:
            os.ftruncate(self._stream, self._size)
            raise _unwritable(self._path, error) from error
        self._size += len(line)

    def sync(self) -> None:
        """See to it that what was written outlives the machine."""
        os.fsync(self._stream)

    def close(self) -> None:
        """End the file."""
        os.close(self._stream)


def attempts(path: Path) -> Iterator[Attempt]:
    """The attempts in one file, in the order in which they were written; what is no attempt is passed over."""
    for _, attempt in _lines(path):
        if attempt is not None:
            yield attempt


def files(folder: Path) -> list[Path]:
    """The ledger's files in a folder, in order. A folder, link or pipe of such a name is none of them: it was not
    written by an engine, and to open it might never end."""
    return [path for path in sorted(folder.glob("*.jsonl")) if stat.S_ISREG(path.lstat().st_mode)]


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What the ledger knows of some requests, an array each, in the order in which they were named.

    attempts: how many were made; 0 for a request that it does not know. spent: those of them that are lasting.
    answered: one of them was usable. written: the one that counts (a usable one, else the last that is read) has a
    text. letter: the one read from it, or 0. file, offset: where it lies.
    """

    attempts: Any
    spent: Any
    answered: Any
    written: Any
    letter: Any
    file: Any
    offset: Any

    def is_settled(self, place: int, max_attempts: int, *, greedy: bool) -> bool:
        """Whether a request needs no further attempt: it was answered, or was tried often enough.

        Greedily, a text that was no good would be written again, word for word.
        """
        spent = int(self.spent[place])
        return bool(self.answered[place] or spent >= max_attempts or (spent and greedy and self.written[place]))


class Ledger:
    """What was written down so far for one model and sampling, by every run. About 30 bytes an attempt."""

    def __init__(self, folder: Path) -> None:
        self._paths = files(folder)
        for stranger in sorted({*folder.glob("*.jsonl")} - {*self._paths}):
            _say(f"{stranger} is no plain file, and is passed over")
        places = jsonl.Places()
        letters, answered, written, lasting = array("B"), array("B"), array("B"), array("B")
        for number, path in enumerate(self._paths):
            num_refused = 0
            for offset, attempt in _lines(path):
                if attempt is None:
                    num_refused += 1
                    continue
                places.add(attempt.id, number, offset)
                letters.append(ord(attempt.letter) if attempt.letter else 0)
                answered.append(attempt.status == Status.ANSWERED)
                written.append(attempt.is_text)
                lasting.append(attempt.is_lasting)
            if num_refused:
                _say(f"{path} has {num_refused} line(s) that hold no attempt, which are passed over")
        flags = [np.frombuffer(column, np.uint8).astype(bool) for column in (answered, written, lasting)]
        self._keep_one_each(*places.arrays(), np.frombuffer(letters, np.uint8), *flags)

    def _keep_one_each(
        self, keys: Any, files: Any, offsets: Any, letters: Any, answered: Any, written: Any, lasting: Any
    ) -> None:
        """Of each request the attempt that counts: a usable one, else the last that is read."""
        place = np.arange(len(keys))
        order = np.lexsort((np.where(answered, place, -place), ~answered, keys))
        self._keys, first, of_key, self._num_attempts = np.unique(
            keys[order], return_index=True, return_inverse=True, return_counts=True
        )
        self._num_spent = np.bincount(of_key, weights=lasting[order], minlength=len(self._keys)).astype(np.int64)
        chosen = order[first]
        self._files, self._offsets, self._letters = files[chosen], offsets[chosen], letters[chosen]
        self._answered, self._written = answered[chosen], written[chosen]

    def __len__(self) -> int:
        """How many requests it knows."""
        return len(self._keys)

    def look_up(self, ids: Sequence[str]) -> Found:
        """What is known of these requests."""
        wanted = jsonl.keys_of(ids)
        place = np.searchsorted(self._keys, wanted)
        place[place == len(self._keys)] = 0
        known = self._keys[place] == wanted if len(self._keys) else np.zeros(len(wanted), bool)

        def column(of: Any) -> Any:
            return np.where(known, of[place], 0) if len(self._keys) else np.zeros(len(wanted), of.dtype)

        return Found(
            attempts=column(self._num_attempts),
            spent=column(self._num_spent),
            answered=column(self._answered).astype(bool),
            written=column(self._written).astype(bool),
            letter=column(self._letters),
            file=column(self._files),
            offset=column(self._offsets),
        )

    def load(self, ids: Sequence[str], found: Found) -> list[Attempt | None]:
        """The attempts that count for these requests, as `look_up` found them; None for what is not there."""
        loaded: list[Attempt | None] = [None] * len(ids)
        for number in np.unique(found.file[found.attempts > 0]):
            with self._paths[number].open("rb") as stream:
                for place in np.flatnonzero((found.file == number) & (found.attempts > 0)):
                    stream.seek(int(found.offset[place]))
                    attempt = _parsed(stream.readline(jsonl.LONGEST_LINE))
                    # Keys are half of an id: another id with the same half is another request.
                    loaded[place] = attempt if attempt is not None and attempt.id == ids[place] else None
        return loaded

    def mean_output_tokens(self, at_most: int = 10_000) -> float | None:
        """Mean tokens of a written answer, from some thousands of them; None when nothing is written down."""
        lengths: list[int] = []
        for path in reversed(self._paths):
            lengths += [attempt.num_output_tokens for attempt in attempts(path) if attempt.is_text]
            if len(lengths) >= at_most:
                break
        return sum(lengths) / len(lengths) if lengths else None


def letter_name(code: int) -> str | None:
    """The letter that `Found` holds as a number."""
    return chr(code) if code and chr(code) in LETTERS else None


def _lines(path: Path) -> Iterator[tuple[int, Attempt | None]]:
    """Offset and attempt of each whole line, None for one that holds none; a torn one at the end was never finished."""
    for offset, line in jsonl.lines(path):
        if line.endswith(b"\n") or len(line) == jsonl.LONGEST_LINE:
            yield offset, _parsed(line)


def _parsed(line: bytes) -> Attempt | None:
    """The attempt that a line holds; None where a field is unknown, or is not what it should be."""
    try:
        attempt = _form().validate_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return attempt if attempt is not None and _is_plausible(attempt) else None


@functools.cache
def _form() -> Any:
    """What reads a line: strictly by Attempt's types, and quicker than Python's own JSON. Imported when it is used."""
    import pydantic

    return pydantic.TypeAdapter(Attempt)


def _is_plausible(attempt: Attempt) -> bool:
    kept = attempt.top_logprobs
    return (
        _ID.fullmatch(attempt.id) is not None
        and attempt.letter in _LETTERS
        and attempt.status in _STATUSES
        and (attempt.is_text or attempt.status != Status.ANSWERED)
        and (attempt.error is None) == (attempt.status == Status.ANSWERED)
        and (kept is None or logprobs.is_whole(kept))
    )


def _say(what: str) -> None:
    print(f"ledger: {what}", file=sys.stderr, flush=True)


def _unwritable(path: Path, error: OSError) -> ArtifactError:
    what = "is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"cannot be written ({error.strerror})"
    return ArtifactError(
        f"The ledger {path} {what}. Every answer that was finished is kept; free space, or name another place (--set "
        "teach.ledger=PATH, verify.reread.ledger=PATH or examination.ledger=PATH), and run the stage again."
    )
