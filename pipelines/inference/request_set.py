"""Questions and what each is asked, against the ledger -> what is still to be sent, and what was answered."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.errors import ClusterError
from pipelines.inference.config import InferenceConfig
from pipelines.inference.jsonl import key_of
from pipelines.inference.ledger import Attempt, Found, Ledger, letter_name
from pipelines.inference.requests import ExampleTurn, Request
from pipelines.records import Question

_QUESTIONS_AT_ONCE = 1024
_EXAMPLE = pa.struct(
    [
        pa.field("prompt", pa.string()),
        pa.field("images", pa.list_(pa.string())),
        pa.field("image_digests", pa.list_(pa.string())),
        pa.field("answer", pa.string()),
    ]
)
_REQUEST = pa.struct(
    [
        pa.field("id", pa.string()),
        pa.field("condition", pa.string()),
        pa.field("number", pa.int64()),
        pa.field("hinted", pa.bool_()),
        pa.field("needs_answer", pa.bool_()),
        pa.field("prompt", pa.string()),
        pa.field("images", pa.list_(pa.string())),
        pa.field("image_digests", pa.list_(pa.string())),
        pa.field("system", pa.string()),
        pa.field("examples", pa.list_(_EXAMPLE)),
        pa.field("options", pa.list_(pa.string())),
        pa.field("entry", pa.string()),
        pa.field("rotation", pa.int64()),
        pa.field("prefill", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("spent", pa.int64()),
    ]
)
_FIELDS = tuple(field.name for field in dataclasses.fields(Request))
_SCHEMA = pa.schema(
    [
        pa.field("options", pa.list_(pa.string())),
        pa.field("gold", pa.string()),
        pa.field("answered", pa.bool_()),
        pa.field("requests", pa.list_(_REQUEST)),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PendingQuestion:
    """A question with requests that are not settled yet.

    answered: one of its answers, written earlier, is right. requests: with the lasting attempts made at each before.
    """

    options: tuple[str, ...]
    gold: str
    answered: bool
    requests: list[tuple[Request, int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What is to be asked: batches of pending questions in a file that workers read by number.

    num_questions: of the set; num_open: of them with pending requests. num_requests: of the whole set, hinted ones
    apart; num_settled: of these, by the ledger. requests, pending: condition -> all of these, and those to be sent.
    max_images: that any pending request shows.
    """

    path: Path
    num_batches: int
    num_questions: int
    num_open: int
    num_requests: int
    num_settled: int
    requests: Mapping[str, int]
    pending: Mapping[str, int]
    max_images: int


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """A request of a question with the attempt that counts, and how many were made."""

    question: Question
    request: Request
    attempt: Attempt
    num_attempts: int


class RequestSet:
    """The requests of all questions of a run to one model; gone through as often as needed, never all in memory.

    asked: gives each question with all that it is asked, anew at each call.
    """

    def __init__(self, config: InferenceConfig, asked: Callable[[], Iterator[tuple[Question, list[Request]]]]) -> None:
        self._config = config
        self._asked = asked

    def chunks(self) -> Iterator[list[tuple[Question, list[Request]]]]:
        """Questions with all that each is asked, in their order, about a thousand at a time."""
        asked = self._asked()
        while chunk := list(itertools.islice(asked, _QUESTIONS_AT_ONCE)):
            yield chunk

    def write_plan(self, ledger: Ledger, path: Path) -> Plan:
        """Write down what the ledger does not settle, `batch_size` questions in each batch."""
        counts = {"num_batches": 0, "num_questions": 0, "num_open": 0, "num_requests": 0, "num_settled": 0}
        all_requests: Counter[str] = Counter()
        pending: Counter[str] = Counter()
        max_images = 0
        waiting: list[dict[str, Any]] = []
        planned: set[int] = set()
        size = self._config.batch_size
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as stream:

            def write_batch() -> None:
                nonlocal max_images
                batch = waiting[:size]
                del waiting[:size]
                stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=_SCHEMA))
                sent = [request for question in batch for request in question["requests"]]
                counts["num_batches"] += 1
                counts["num_open"] += len(batch)
                pending.update(request["condition"] for request in sent if not request["hinted"])
                max_images = max(max_images, *(request["num_images"] for request in sent))

            for chunk in self.chunks():
                counts["num_questions"] += len(chunk)
                counts["num_requests"] += sum(not request.hinted for _, requests in chunk for request in requests)
                found = ledger.look_up([request.id for _, requests in chunk for request in requests])
                asked = [request for _, requests in chunk for request in requests]
                all_requests.update(request.condition for request in asked if not request.hinted)
                counts["num_settled"] += sum(
                    self._is_settled(found, place) for place, request in enumerate(asked) if not request.hinted
                )
                waiting += self._pending(chunk, found, planned)
                while len(waiting) >= size:
                    write_batch()
            if waiting:
                write_batch()
        return Plan(path=path, requests=all_requests, pending=pending, max_images=max_images, **counts)

    def _pending(
        self, chunk: list[tuple[Question, list[Request]]], found: Found, planned: set[int]
    ) -> Iterator[dict[str, Any]]:
        """What is to be asked of these questions. planned: what other questions ask already, which without their
        images can be the same."""
        place = 0
        for question, requests in chunk:
            places = range(place, place + len(requests))
            place += len(requests)
            answered = any(
                _is_right(request, question, found, at) for request, at in zip(requests, places, strict=True)
            )
            pending = [
                _as_row(request, int(found.spent[at]))
                for request, at in zip(requests, places, strict=True)
                if not (request.hinted and answered)
                and key_of(request.id) not in planned
                and not self._is_settled(found, at)
            ]
            planned.update(key_of(request["id"]) for request in pending)
            if pending:
                yield {"options": question.options, "gold": question.gold, "answered": answered, "requests": pending}

    def _is_settled(self, found: Found, place: int) -> bool:
        greedy = self._config.sampling.temperature == 0
        return found.is_settled(place, self._config.attempts, greedy=greedy)

    def answers(self, ledger: Ledger) -> Iterator[Answered]:
        """The attempt that counts for each request, in order; hinted requests that were not needed are left out.

        Raises ClusterError when a request was never sent.
        """
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
                        f"The workers ended without a word on question {question.id} (request {request.id}). "
                        "Run the stage again: what is finished is kept."
                    )
                yield Answered(question, request, attempt, int(found.attempts[at]))


def read_batch(plan: Path, number: int) -> list[PendingQuestion]:
    """The pending questions of one batch of a plan."""
    with pa.memory_map(str(plan)) as source:
        rows = pa.ipc.open_file(source).get_batch(number).to_pylist()
    return [
        PendingQuestion(
            options=tuple(row["options"]),
            gold=row["gold"],
            answered=row["answered"],
            requests=[_request(stored) for stored in row["requests"]],
        )
        for row in rows
    ]


def _as_row(request: Request, spent: int) -> dict[str, Any]:
    row = {name: getattr(request, name) for name in _FIELDS}
    row["examples"] = [dataclasses.asdict(example) for example in request.examples]
    return row | {"spent": spent, "num_images": request.num_images}


def _request(stored: dict[str, Any]) -> tuple[Request, int]:
    spent = stored.pop("spent")
    examples = tuple(ExampleTurn(**_listed(example)) for example in stored["examples"])
    return Request(**{**_listed(stored), "examples": examples}), spent


def _listed(stored: dict[str, Any]) -> dict[str, Any]:
    """A row with its lists as tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()}


def _is_right(request: Request, question: Question, found: Found, place: int) -> bool:
    """Whether the question itself, asked without a hint, was answered with the gold option."""
    asked_plainly = request.needs_answer and not request.hinted
    return bool(asked_plainly and found.answered[place]) and letter_name(found.letter[place]) == question.gold
