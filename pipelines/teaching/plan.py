"""Questions and ledger -> what is to be asked, and in the end what was answered, in the questions' order."""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.errors import ClusterError
from pipelines.inference import conditions, logprobs
from pipelines.inference.ledger import Attempt, Found, Ledger, key_of, letter_name
from pipelines.inference.requests import Request, Teacher, is_probed, prompt_digest, requests_of
from pipelines.records import Question, Rationale, Split, TopLogprobs, tables
from pipelines.records.evaluation_only import check_may_teach
from pipelines.teaching.config import TeachConfig

_QUESTIONS_AT_ONCE = 1024
_REQUEST = pa.struct(
    [
        pa.field("id", pa.string()),
        pa.field("condition", pa.string()),
        pa.field("number", pa.int64()),
        pa.field("hinted", pa.bool_()),
        pa.field("prompt", pa.string()),
        pa.field("images", pa.list_(pa.string())),
        pa.field("image_digests", pa.list_(pa.string())),
        pa.field("spent", pa.int64()),
    ]
)
_ASKED = tuple(field.name for field in dataclasses.fields(Request))
_SCHEMA = pa.schema(
    [
        pa.field("options", pa.list_(pa.string())),
        pa.field("gold", pa.string()),
        pa.field("answered", pa.bool_()),
        pa.field("requests", pa.list_(_REQUEST)),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Open:
    """A question with requests that are not settled yet.

    answered: one of its rationales, written earlier, is right. requests: with the lasting attempts made at each so far.
    """

    options: tuple[str, ...]
    gold: str
    answered: bool
    requests: list[tuple[Request, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be asked: batches of open questions in a file that engines read by number.

    num_questions: that may be explained; num_open: of them not settled. num_requests: of all these questions, hinted
    ones apart. max_images: that any request shows.
    """

    path: Path
    num_batches: int
    num_questions: int
    num_open: int
    num_requests: int
    max_images: int


class Asking:
    """The requests of every training question, as often as they are gone through; never all in memory."""

    def __init__(self, folder: Path, config: TeachConfig, teacher: Teacher) -> None:
        self._folder = folder
        self._config = config
        self._teacher = teacher
        # Only what is tried for grounding is held, since any of it may lend its images to any other.
        probed = (q for q in self._questions() if config.grounding_share and is_probed(q.id, config))
        self._donors = conditions.donors(probed, config.seed) if config.grounding_share else {}

    def chunks(self) -> Iterator[list[tuple[Question, list[Request]]]]:
        """Questions with all that each is asked for, in their order, about a thousand at a time."""
        questions = self._questions()
        while chunk := list(itertools.islice(questions, _QUESTIONS_AT_ONCE)):
            yield [
                (question, requests_of(question, self._config, self._teacher, self._donors.get(question.id)))
                for question in chunk
            ]

    def _questions(self) -> Iterator[Question]:
        return tables.stream(self._folder, Question, split=Split.TRAIN)

    def write_plan(self, ledger: Ledger, path: Path) -> Plan:
        """Write down what the ledger does not settle, `batch_size` questions in each batch."""
        num_questions = num_open = num_requests = num_batches = max_images = 0
        waiting: list[dict[str, Any]] = []
        planned: set[int] = set()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as stream:
            for chunk in self.chunks():
                check_may_teach(question for question, _ in chunk)
                num_questions += len(chunk)
                num_requests += sum(not request.hinted for _, requests in chunk for request in requests)
                waiting += self._open(chunk, ledger, planned)
                while len(waiting) >= self._config.batch_size:
                    num_batches, num_open = num_batches + 1, num_open + self._config.batch_size
                    max_images = max(max_images, _write_batch(stream, waiting[: self._config.batch_size]))
                    del waiting[: self._config.batch_size]
            if waiting:
                num_batches, num_open = num_batches + 1, num_open + len(waiting)
                max_images = max(max_images, _write_batch(stream, waiting))
        return Plan(
            path=path,
            num_batches=num_batches,
            num_questions=num_questions,
            num_open=num_open,
            num_requests=num_requests,
            max_images=max_images,
        )

    def _open(
        self, chunk: list[tuple[Question, list[Request]]], ledger: Ledger, planned: set[int]
    ) -> Iterator[dict[str, Any]]:
        """What is to be asked of these questions. planned: what other questions ask for already, which without
        their images can be the same."""
        found = ledger.look_up([request.id for _, requests in chunk for request in requests])
        place = 0
        for question, requests in chunk:
            places = range(place, place + len(requests))
            place += len(requests)
            answered = any(
                _is_right(request, question, found, at) for request, at in zip(requests, places, strict=True)
            )
            unsettled = [
                {name: getattr(request, name) for name in _ASKED} | {"spent": int(found.spent[at])}
                for request, at in zip(requests, places, strict=True)
                if not (request.hinted and answered)
                and key_of(request.id) not in planned
                and not self._is_settled(found, at)
            ]
            planned.update(key_of(request["id"]) for request in unsettled)
            if unsettled:
                yield {
                    "options": question.options,
                    "gold": question.gold,
                    "answered": answered,
                    "requests": unsettled,
                }

    def _is_settled(self, found: Found, place: int) -> bool:
        return found.is_settled(place, self._config.attempts, greedy=self._config.temperature == 0)

    def rationales(self, ledger: Ledger) -> Iterator[tuple[Rationale, TopLogprobs | None]]:
        """The attempt that counts for each request, in order, and what was held likely, where it is kept.

        Raises ClusterError when one was never made.
        """
        sampling = self._teacher.sampling_digest
        for chunk in self.chunks():
            pairs = [(question, request) for question, requests in chunk for request in requests]
            ids = [request.id for _, request in pairs]
            found = ledger.look_up(ids)
            loaded = ledger.load(ids, found)
            answered = {
                question.id for at, (question, request) in enumerate(pairs) if _is_right(request, question, found, at)
            }
            for at, (question, request) in enumerate(pairs):
                attempt = loaded[at]
                if request.hinted and question.id in answered:
                    continue
                if attempt is None:
                    raise ClusterError(
                        f"The engines ended without a word on question {question.id} (request {request.id}). "
                        "Run the stage again: what is finished is kept."
                    )
                kept = logprobs.row_of(attempt.id, attempt.top_logprobs) if attempt.top_logprobs else None
                yield self._rationale(question, request, attempt, int(found.attempts[at]), sampling), kept

    def _rationale(
        self, question: Question, request: Request, attempt: Attempt, attempts: int, sampling: str
    ) -> Rationale:
        stored = dataclasses.asdict(attempt)
        del stored["letter"], stored["top_logprobs"]
        return Rationale(
            **stored,
            question_id=question.id,
            condition=request.condition,
            number=request.number,
            hinted=request.hinted,
            attempts=attempts,
            teacher=self._teacher.name,
            teacher_digest=self._teacher.digest,
            prompt_digest=prompt_digest(request.prompt),
            sampling_digest=sampling,
        )


def read_batch(plan: Path, number: int) -> list[Open]:
    """The open questions of one batch of a plan."""
    with pa.memory_map(str(plan)) as source:
        rows = pa.ipc.open_file(source).get_batch(number).to_pylist()
    return [
        Open(
            options=tuple(row["options"]),
            gold=row["gold"],
            answered=row["answered"],
            requests=[_request(stored) for stored in row["requests"]],
        )
        for row in rows
    ]


def _request(stored: dict[str, Any]) -> tuple[Request, int]:
    spent = stored.pop("spent")
    listed = {name: tuple(stored[name]) for name in ("images", "image_digests")}
    return Request(**{**stored, **listed}), spent


def _write_batch(stream: Any, rows: list[dict[str, Any]]) -> int:
    """Write one batch; the most images that one of its requests shows."""
    stream.write_batch(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
    return max(len(request["images"]) for row in rows for request in row["requests"])


def _is_right(request: Request, question: Question, found: Found, place: int) -> bool:
    """Whether the question itself, asked without a hint, was answered with the gold option."""
    asked_plainly = not request.is_probe and not request.hinted
    return bool(asked_plainly and found.explained[place]) and letter_name(found.letter[place]) == question.gold
