"""Open questions -> attempts in the ledger: what one engine does with a batch, and how it stays alive.

A row's trouble is written down as that row's. What the engine was writing when it died is asked again; what was under
way in two of its deaths is asked among few others, after three alone; if it is not survived then, it is the culprit.
"""

import asyncio
import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from infra.errors import ArtifactError, ClusterError
from pipelines.images import sealed
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import answers, ledger, reasoning
from pipelines.inference.backends import Completion, Engine, EngineDiedError, RowError
from pipelines.inference.ledger import Attempt
from pipelines.inference.requests import Request
from pipelines.records import Fate
from pipelines.teaching.config import TeachConfig
from pipelines.teaching.plan import Open, read_batch

# How many requests are given to the engine beside one that was under way in so many of its deaths.
_FEW_AFTER_DEATHS, _FEW = 2, 16
_ALONE_AFTER_DEATHS = 3
_DEATHS_OF_A_CULPRIT = 4
_MAX_BARREN_LIVES = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What all engines of a run are given: settings, and folders that each of them sees.

    images: the questions artifact. ledger: the folder of this teacher's attempts. plan: the file of batches; what was
    begun is noted beside it, and goes when the run ends.
    """

    config: TeachConfig
    images: Path
    ledger: Path
    plan: Path


@dataclasses.dataclass(kw_only=True)
class Account:
    """What became of a batch. settled: requests, by fate; right: real ones answered with the gold option; reasons: of
    those that failed or were quarantined; made: attempts; uptime_s: of the engine, its start included. stopped: why no
    engine can go on, such as a full disk."""

    questions: int = 0
    settled: Counter[str] = dataclasses.field(default_factory=Counter)
    reasons: Counter[str] = dataclasses.field(default_factory=Counter)
    asked: int = 0
    right: int = 0
    made: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    engine: str = ""
    uptime_s: float = 0.0
    stopped: str = ""

    def as_json(self) -> str:
        """As it travels."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Account":
        """What `as_json` wrote."""
        stored = json.loads(text)
        return cls(**{**stored, "settled": Counter(stored["settled"]), "reasons": Counter(stored["reasons"])})


class Explainer:
    """One engine at its work; it has lived before when it died, and then knows what it did."""

    def __init__(self, work: Work, name: str, start: Callable[[TeachConfig], Engine]) -> None:
        self._started = time.monotonic()
        self._config = work.config
        self._images = work.images
        self._plan = work.plan
        self._name = name
        self._past = _Past(work, name)
        if self._past.num_barren >= _MAX_BARREN_LIVES:
            raise ClusterError(
                f"The engine of {work.config.teacher} died {self._past.num_barren} times in a row without finishing a "
                "rationale. What is finished is kept; look at its log, and run the stage again."
            )
        life = f"{name}-{self._past.num_lives:03}"
        self._begun = (work.plan.parent / f"{life}.begun").open("a", buffering=1)
        self._writer = ledger.Writer(work.ledger / f"{life}.jsonl")
        self._engine = start(work.config)
        self._turns = _Turns(self._engine.num_at_once)
        self._over: EngineDiedError | ArtifactError | None = None

    async def explain(self, number: int) -> Account:
        """Settle every request of a batch. Raises EngineDiedError, and ArtifactError when the ledger takes no more."""
        account = Account(engine=self._name)
        batch = await asyncio.to_thread(read_batch, self._plan, number)
        await asyncio.gather(*(self._explain(question, account) for question in batch))
        account.questions = len(batch)
        account.uptime_s = time.monotonic() - self._started
        await asyncio.to_thread(self._writer.sync)
        return account

    def close(self) -> None:
        """End the files."""
        self._begun.close()
        self._writer.close()

    async def _explain(self, question: Open, account: Account) -> None:
        plain = [(request, spent) for request, spent in question.requests if not request.hinted]
        right = await asyncio.gather(*(self._settle(request, spent, question, account) for request, spent in plain))
        for request, spent in question.requests:
            if request.hinted and not question.answered and not any(right):
                await self._settle(request, spent, question, account)

    async def _settle(self, request: Request, spent: int, question: Open, account: Account) -> bool:
        """Ask until there is a usable answer or no attempt left. Whether it is a real request, answered rightly."""
        attempts = list(self._past.attempts.get(request.id, ()))  # of an earlier life, not counted as ours
        last = attempts[-1] if attempts else None
        spent += len(attempts)
        while last is None or (last.fate != Fate.EXPLAINED and spent < self._config.attempts and not self._same(last)):
            last = await self._attempt(request, spent, question)
            spent += 1
            account.made += 1
            account.prompt_tokens += last.num_prompt_tokens
            account.output_tokens += last.num_output_tokens
        right = not request.is_probe and last.letter == question.gold and last.fate == Fate.EXPLAINED
        account.settled[last.fate] += 1
        account.asked += not request.is_probe
        account.right += right
        if last.error:
            account.reasons[last.error] += 1
        return right

    def _same(self, last: Attempt) -> bool:
        """Whether another attempt would give the same text."""
        return self._config.temperature == 0 and last.is_text

    async def _attempt(self, request: Request, number: int, question: Open) -> Attempt:
        seed, deaths = request.seed(number), self._past.deaths[request.id]
        if deaths >= _DEATHS_OF_A_CULPRIT:
            made = _failed(request, seed, "engine_died_of_it")
        else:
            async with self._turns.turn(self._room(deaths)):
                self._begin(request)
                made = await self._ask(request, seed, question)
        try:
            self._writer.add(made)
        except ArtifactError as error:
            self._over = error
            raise
        return made

    def _room(self, deaths: int) -> int:
        """How many slots a request takes: the more, the more it is suspected."""
        num = self._engine.num_at_once
        return num if deaths >= _ALONE_AFTER_DEATHS else -(-num // _FEW) if deaths >= _FEW_AFTER_DEATHS else 1

    def _begin(self, request: Request) -> None:
        """Note that a request is under way.

        None is after the engine's death, for which it would be blamed, or when no answer can be written down any more.
        """
        if self._over:
            raise self._over
        try:
            self._begun.write(f"{request.id}\n")
        except OSError as error:
            raise ArtifactError(f"{self._begun.name} cannot be written: {error.strerror}. Free space.") from error

    async def _ask(self, request: Request, seed: int, question: Open) -> Attempt:
        shown = sealed.of(self._images, request)
        try:
            async with asyncio.timeout(self._config.timeout_s):
                said = await self._engine.generate(request.prompt, shown, seed)
        except UnreadableImageError as error:
            return dataclasses.replace(_failed(request, seed, str(error)), fate=Fate.QUARANTINED)
        except RowError as error:
            return _failed(request, seed, str(error))
        except TimeoutError:
            return _failed(request, seed, "timed_out")
        except EngineDiedError as error:
            self._over = error
            raise
        # Whatever else a library raises over one row is that row's; the message may repeat what the row holds.
        except Exception as error:  # noqa: BLE001
            return _failed(request, seed, type(error).__name__)
        return judged(request, seed, said, question.options)


def judged(request: Request, seed: int, said: Completion, options: tuple[str, ...]) -> Attempt:
    """An answer as an attempt: usable when it came to its end and names an option; a probe is whatever it is."""
    thoughts, text, num_stray = reasoning.parse(said.text)
    letter = answers.read_letter(text, options)
    error = None
    if not request.is_probe:
        error = "truncated" if said.finish_reason != "stop" else "no_answer" if letter is None else None
    # Kept for what can teach, and only where the text is all that was written: else its tokens would not be the text's.
    likeliest = None if error or request.is_probe or num_stray or thoughts else said.likeliest
    return Attempt(
        id=request.id,
        fate=Fate.FAILED if error else Fate.EXPLAINED,
        seed=seed,
        letter=letter,
        text=text,
        thoughts=said.thoughts or thoughts,
        finish_reason=said.finish_reason,
        num_prompt_tokens=said.num_prompt_tokens,
        num_output_tokens=said.num_output_tokens,
        num_stray_tokens=num_stray,
        mean_logprob=_finite(sum(said.logprobs) / len(said.logprobs)) if said.logprobs else None,
        min_logprob=_finite(min(said.logprobs)) if said.logprobs else None,
        top_logprobs=likeliest.as_json() if likeliest is not None else None,
        error=error,
    )


def _finite(logprob: float) -> float | None:
    """A logprob as it is written down, in six digits; None for what is no finite number, which no ledger holds."""
    return round(logprob, 6) if math.isfinite(logprob) else None


def _failed(request: Request, seed: int, reason: str) -> Attempt:
    return Attempt(id=request.id, fate=Fate.FAILED, seed=seed, error=reason)


def num_lives(work: Work, name: str) -> int:
    """How often an engine was started in this run, in vain or not."""
    return len(_lives(work, name))


def _lives(work: Work, name: str) -> list[Path]:
    return sorted(work.plan.parent.glob(f"{name}-*.begun"))


class _Past:
    """What an engine did in its earlier lives, in this run: its attempts, and what was under way when it died.

    num_barren: how many of the last lives explained nothing.
    """

    def __init__(self, work: Work, name: str) -> None:
        self.attempts: dict[str, list[Attempt]] = {}
        self.deaths: Counter[str] = Counter()
        lives = _lives(work, name)
        self.num_lives = len(lives)
        self.num_barren = 0
        for begun in lives:
            self.num_barren += 1
            under_way = Counter(begun.read_text().split())
            written = work.ledger / f"{begun.stem}.jsonl"
            for attempt in ledger.attempts(written) if written.exists() else ():
                lean = dataclasses.replace(attempt, text="", thoughts="", top_logprobs=None)
                self.attempts.setdefault(attempt.id, []).append(lean)
                if attempt.fate == Fate.EXPLAINED:
                    self.num_barren = 0
                under_way[attempt.id] -= 1
            self.deaths.update({each: 1 for each, count in under_way.items() if count > 0})


class _Turns:
    """So many slots, of which a turn takes one, several or all."""

    def __init__(self, num_slots: int) -> None:
        self._slots = asyncio.Semaphore(num_slots)
        self._gate = asyncio.Lock()

    @asynccontextmanager
    async def turn(self, num_slots: int) -> AsyncIterator[None]:
        """Wait for the slots, in the order of asking, and hold them."""
        held = 0
        try:
            # Whoever gathers several keeps the others from taking what becomes free.
            async with self._gate:
                for _ in range(num_slots):
                    await self._slots.acquire()
                    held += 1
            yield
        finally:
            for _ in range(held):
                self._slots.release()
