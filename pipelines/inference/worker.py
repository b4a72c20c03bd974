"""Pending requests -> attempts in the ledger: what one worker does with a batch, and how it survives its engine.

A row's trouble is written down as that row's. Requests that were in flight when the engine died are sent again; one
that was in flight at two deaths is sent beside few others, after three deaths alone; if the engine dies of it once
more, the request is given up.
"""

import asyncio
import dataclasses
import json
import math
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from infra.errors import ArtifactError, ClusterError
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import answers, conditions, ledger, reasoning
from pipelines.inference.backends.backend import Backend, Completion, EngineDiedError, RowError
from pipelines.inference.backends.endpoint import EndpointBackend
from pipelines.inference.backends.vllm_engine import VllmBackend
from pipelines.inference.config import InferenceConfig
from pipelines.inference.ledger import Attempt
from pipelines.inference.request_set import PendingQuestion, Plan, read_batch
from pipelines.inference.requests import Request
from pipelines.inference.slots import Slots
from pipelines.records import Status

# How many requests share the engine with one that was in flight at this number of its deaths.
_FEW_AFTER_DEATHS, _FEW = 2, 16
_ALONE_AFTER_DEATHS = 3
_GIVEN_UP_AFTER_DEATHS = 4
_MAX_UNPRODUCTIVE_RESTARTS = 10

StartBackend = Callable[[InferenceConfig], Backend]


def start(config: InferenceConfig) -> Backend:
    """The backend that a config names; a vLLM engine takes half a minute at pocket scale, minutes for a large model."""
    return EndpointBackend(config) if config.endpoint else VllmBackend(config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceJob:
    """What all workers of a run are given: settings, and folders that each of them sees.

    images: the questions artifact. ledger: the folder of this model's attempts. plan: the file of batches; the logs of
    requests in flight lie beside it, and go with it.
    """

    config: InferenceConfig
    images: Path
    ledger: Path
    plan: Path


@dataclasses.dataclass(kw_only=True)
class Account:
    """What became of a batch. settled: requests, by `condition/status`; reasons: of those that failed or were
    quarantined, by `condition/reason`; needed: requests that needed an answer; right: of these, answered with the gold
    option; unread: answers in which no option was found. made: attempts. uptime_s: of the worker, with its backend's
    start. stopped: why no worker can go on, such as a full disk."""

    questions: int = 0
    settled: Counter[str] = dataclasses.field(default_factory=Counter)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    needed: int = 0
    right: int = 0
    unread: int = 0
    made: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    worker: str = ""
    uptime_s: float = 0.0
    stopped: str = ""

    def add(self, other: "Account") -> None:
        """Count another batch in; the worker's own fields stay."""
        for name in ("questions", "needed", "right", "unread", "made", "prompt_tokens", "output_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.settled += other.settled
        self.reasons += other.reasons

    def as_json(self) -> str:
        """As it travels."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Account":
        """What `as_json` wrote."""
        stored = json.loads(text)
        return cls(**{**stored, "settled": Counter(stored["settled"]), "reasons": Counter(stored["reasons"])})


class Worker:
    """One backend at work. After a restart it knows what it did before."""

    def __init__(self, job: InferenceJob, name: str, start: StartBackend = start) -> None:
        self._started = time.monotonic()
        self._config = job.config
        self._images = job.images
        self._plan = job.plan
        self._name = name
        self._history = _RestartHistory(job, name)
        if self._history.num_unproductive >= _MAX_UNPRODUCTIVE_RESTARTS:
            raise ClusterError(
                f"The engine of {job.config.model.name} died {self._history.num_unproductive} times in a row without "
                "finishing an answer. What is finished is kept; look at its log, and run the stage again."
            )
        this_start = f"{name}-{self._history.num_starts:03}"
        # Unbuffered: what a full disk has refused must not be tried again when the file is closed.
        self._in_flight = (job.plan.parent / f"{this_start}.inflight").open("ab", buffering=0)
        self._writer = ledger.Writer(job.ledger / f"{this_start}.jsonl")
        self._backend = start(job.config)
        self._slots = Slots(self._backend.num_at_once)
        self._over: EngineDiedError | ArtifactError | None = None

    async def settle(self, number: int) -> Account:
        """Settle every request of a batch. Raises EngineDiedError, and ArtifactError when the ledger takes no more."""
        account = Account(worker=self._name)
        batch = await asyncio.to_thread(read_batch, self._plan, number)
        await asyncio.gather(*(self._settle_question(question, account) for question in batch))
        account.questions = len(batch)
        account.uptime_s = time.monotonic() - self._started
        await asyncio.to_thread(self._writer.sync)
        return account

    async def close(self) -> None:
        """End the backend's connections, and the files."""
        await self._backend.close()
        self._in_flight.close()
        self._writer.close()

    async def _settle_question(self, question: PendingQuestion, account: Account) -> None:
        plain = [(request, spent) for request, spent in question.requests if not request.hinted]
        right = await asyncio.gather(*(self._settle(request, spent, question, account) for request, spent in plain))
        for request, spent in question.requests:
            if request.hinted and not question.answered and not any(right):
                await self._settle(request, spent, question, account)

    async def _settle(self, request: Request, spent: int, question: PendingQuestion, account: Account) -> bool:
        """Ask until there is a usable answer or no attempt left. Whether an answer was needed, and is right."""
        attempts = list(self._history.attempts.get(request.id, ()))  # before a restart: counted then
        last = attempts[-1] if attempts else None
        spent += len(attempts)
        while last is None or (
            last.status != Status.ANSWERED and spent < self._config.attempts and not self._is_final(last)
        ):
            last = await self._attempt(request, spent, question)
            spent += 1
            account.made += 1
            account.prompt_tokens += last.num_prompt_tokens
            account.output_tokens += last.num_output_tokens
        right = request.needs_answer and last.letter == question.gold and last.status == Status.ANSWERED
        account.settled[f"{request.condition}/{last.status}"] += 1
        account.needed += request.needs_answer
        account.right += right
        account.unread += last.status == Status.ANSWERED and last.letter is None
        if last.error:
            account.reasons[f"{request.condition}/{last.error}"] += 1
        return right

    def _is_final(self, last: Attempt) -> bool:
        """Whether another attempt would give the same text."""
        return self._config.sampling.temperature == 0 and last.is_text

    async def _attempt(self, request: Request, number: int, question: PendingQuestion) -> Attempt:
        seed, deaths = request.seed(number), self._history.deaths[request.id]
        if deaths >= _GIVEN_UP_AFTER_DEATHS:
            made = failed(request, seed, "engine_died_of_it")
        else:
            async with self._slots.hold(self._slot_count(deaths)):
                self._note_in_flight(request)
                made = await self._ask(request, seed, question)
        try:
            self._writer.add(made)
        except ArtifactError as error:
            self._over = error
            raise
        return made

    def _slot_count(self, deaths: int) -> int:
        """How many slots a request takes: the more deaths it was in flight at, the fewer others go beside it."""
        num = self._backend.num_at_once
        return num if deaths >= _ALONE_AFTER_DEATHS else -(-num // _FEW) if deaths >= _FEW_AFTER_DEATHS else 1

    def _note_in_flight(self, request: Request) -> None:
        """Log that a request is sent now. None is sent after the engine's death, of which it would be suspected, or
        when no answer can be written down any more."""
        if self._over:
            raise self._over
        try:
            self._in_flight.write(f"{request.id}\n".encode())
        except OSError as error:
            raise ArtifactError(f"{self._in_flight.name} cannot be written: {error.strerror}. Free space.") from error

    async def _ask(self, request: Request, seed: int, question: PendingQuestion) -> Attempt:
        images = conditions.shown_images(self._images, request)
        before = conditions.before(self._images, request)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                completion = await self._backend.generate(request.prompt, images, seed, before)
        except UnreadableImageError as error:
            return failed(request, seed, str(error), Status.QUARANTINED)
        except RowError as error:
            return failed(request, seed, str(error))
        except TimeoutError:
            return failed(request, seed, "timed_out")
        except EngineDiedError as error:
            self._over = error
            raise
        # Whatever else a library raises over one row is that row's; the message may repeat what the row holds.
        except Exception as error:  # noqa: BLE001
            return failed(request, seed, type(error).__name__)
        options = request.options or question.options
        return judged(request, seed, completion, options, answer_first=self._config.answer_first)


def judged(
    request: Request, seed: int, completion: Completion, options: tuple[str, ...], *, answer_first: bool = False
) -> Attempt:
    """A completion as an attempt. Where an answer is needed, it is usable when the text came to its end and names an
    option; elsewhere whatever was written counts."""
    thoughts, text, num_stray = reasoning.parse(completion.text)
    letter = answers.read(text, options, finish_reason=completion.finish_reason, answer_first=answer_first).letter
    error = None
    if request.needs_answer:
        error = "truncated" if completion.finish_reason != "stop" else "no_answer" if letter is None else None
    # Kept for what can teach, and only where the text is all that was written: else its tokens would not be the text's.
    can_teach = request.needs_answer and not (error or num_stray or thoughts)
    top_logprobs = completion.top_logprobs if can_teach else None
    logprobs = completion.logprobs
    return Attempt(
        id=request.id,
        status=Status.FAILED if error else Status.ANSWERED,
        seed=seed,
        letter=letter,
        text=text,
        thoughts=completion.thoughts or thoughts,
        finish_reason=completion.finish_reason,
        num_prompt_tokens=completion.num_prompt_tokens,
        num_output_tokens=completion.num_output_tokens,
        num_stray_tokens=num_stray,
        mean_logprob=_finite(sum(logprobs) / len(logprobs)) if logprobs else None,
        min_logprob=_finite(min(logprobs)) if logprobs else None,
        top_logprobs=top_logprobs.as_json() if top_logprobs is not None else None,
        error=error,
    )


def _finite(logprob: float) -> float | None:
    """A logprob in six digits; None for what stands for an infinite one, or is no number, which no ledger holds."""
    return round(logprob, 6) if abs(logprob) <= ledger.LARGEST_LOGPROB else None


def failed(request: Request, seed: int, reason: str, status: Status = Status.FAILED) -> Attempt:
    """An attempt that gave no text, and why."""
    return Attempt(id=request.id, status=status, seed=seed, error=reason)


def work_through(job: InferenceJob, plan: Plan, start: StartBackend = start) -> Iterator[Account]:
    """The account of each batch of a plan, settled by one worker in this process, a few batches at a time.

    For an endpoint: an engine of our own has a process for itself, which may die. Where whoever reads the accounts
    stops, requests in flight are cancelled.
    """
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        worker = Worker(job, f"w-{uuid.uuid4().hex[:16]}", start)
        try:
            yield from _few_at_a_time(runner, worker, plan.num_batches, batches_at_once(job.config, plan))
        finally:
            runner.run(_cancel(asyncio.all_tasks(loop)))
            runner.run(worker.close())


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """End these tasks, and take note of whatever they raise."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _few_at_a_time(runner: asyncio.Runner, worker: Worker, num_batches: int, at_once: int) -> Iterator[Account]:
    loop, numbers = runner.get_loop(), iter(range(num_batches))
    running: set[asyncio.Task[Account]] = set()
    while True:
        while len(running) < at_once and (number := next(numbers, None)) is not None:
            running.add(loop.create_task(worker.settle(number)))
        if not running:
            return
        done, running = runner.run(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
        for task in done:
            yield task.result()


def batches_at_once(config: InferenceConfig, plan: Plan) -> int:
    """How many batches fill a backend and its queue, with some to spare: of each, the last rows are waited for."""
    requests = max(1, sum(plan.pending.values()) // max(1, plan.num_batches))  # of a batch, in the mean
    return max(2, math.ceil(3 * config.engine.max_num_seqs / requests))


def num_starts(job: InferenceJob, name: str) -> int:
    """How often a worker was started in this run, in vain or not."""
    return len(_starts(job, name))


def _starts(job: InferenceJob, name: str) -> list[Path]:
    return sorted(job.plan.parent.glob(f"{name}-*.inflight"))


class _RestartHistory:
    """What a worker did before its restarts, in this run: its attempts, and what was in flight when its engine died.

    num_unproductive: how many of the last starts gave no answer.
    """

    def __init__(self, job: InferenceJob, name: str) -> None:
        self.attempts: dict[str, list[Attempt]] = {}
        self.deaths: Counter[str] = Counter()
        starts = _starts(job, name)
        self.num_starts = len(starts)
        self.num_unproductive = 0
        for sent in starts:
            self.num_unproductive += 1
            in_flight = Counter(sent.read_text().split())
            written = job.ledger / f"{sent.stem}.jsonl"
            for attempt in ledger.attempts(written) if written.exists() else ():
                lean = dataclasses.replace(attempt, text="", thoughts="", top_logprobs=None)
                self.attempts.setdefault(attempt.id, []).append(lean)
                if attempt.status == Status.ANSWERED:
                    self.num_unproductive = 0
                in_flight[attempt.id] -= 1
            self.deaths.update({each: 1 for each, count in in_flight.items() if count > 0})
