"""Accepted verdicts -> the same after a second reader, who is given the question, its options and the reasoning, and
neither the image nor the answer: what does not lead anybody to the gold option teaches nobody.

What the ledger holds is never asked again, so that a run that was killed goes on where it was. Nothing but one question
with its rationales is in memory: the verdicts wait in the draft until all is read.
"""

import dataclasses
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from infra.digests import digest_json
from infra.manifest import Tally
from infra.stage import Task
from pipelines.inference import answers, failures, ledger, prompts, worker
from pipelines.inference.backends import endpoint
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.inference.config import InferenceConfig, Model, Sampling
from pipelines.inference.ledger import Attempt, Ledger
from pipelines.inference.progress import InferenceProgress
from pipelines.inference.request_set import Answered, RequestSet
from pipelines.inference.requests import Request, request
from pipelines.inference.worker import InferenceJob
from pipelines.records import Condition, Question, Rationale, Status, Verdict, pairing, tables
from pipelines.verification.checks import ACCEPTED
from pipelines.verification.config import Reread

# Why a verdict is changed. The reason of a request that failed has the beginning of these, and then its own name.
DISAGREES, UNDECIDED, FAILED = "reread_disagrees", "reread_undecided", "reread_"
TRUNCATED = "truncated"
METRIC = "reread_"  # before the name of each metric of the asking
_COUNTED_AS = {ACCEPTED: "agrees", DISAGREES: "disagrees", UNDECIDED: "undecided"}

_WORKSPACE = "reread"  # folder in the draft
_METRICS = ("attempts_now", "seconds_now", "prompt_tokens_now", "output_tokens_now")

Judged = tuple[Question, list[Rationale], list[Verdict]]


def inference(config: Reread) -> InferenceConfig:
    """How the second reader is asked: greedily, and once. Nothing but its address and name is known of it, so these
    tell its answers from all others."""
    return InferenceConfig(
        stage="verify.reread",
        model=Model(name=config.model, digest=digest_json({"endpoint": config.endpoint, "model": config.model})),
        sampling=Sampling(max_tokens=config.max_tokens),
        endpoint=config.endpoint,
        engine=EngineConfig(max_num_seqs=config.concurrency),
        advice="Start what serves the second reader, name another one (--set verify.reread.endpoint=URL "
        "--set verify.reread.model=NAME), or do without: --set verify.reread=null",
        timeout_s=config.timeout_s,
        max_failed_share=config.max_failed_share,
        batch_size=config.batch_size,
    )


def requests_of(question: Question, verdicts: list[Verdict], own: InferenceConfig) -> list[Request]:
    """What is asked about a question: once about each different reasoning of its accepted verdicts."""
    asked = (_request(question, verdict, own) for verdict in verdicts if verdict.accepted)
    return list({each.id: each for each in asked}.values())


def _request(question: Question, verdict: Verdict, own: InferenceConfig) -> Request:
    return request(own, question, prompts.reread_prompt(question, verdict.body), Condition.ABSENT)


class SecondReader:
    """Reads what is accepted so far, and counts what became of it."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._own = inference(task.config.reread)
        self._ledger = ledger.root_of(task.config.reread.ledger, task.run_dir)
        self._workspace = task.draft / _WORKSPACE
        self._questions: Path = task.inputs["questions"].path
        self._rationales: Path = task.inputs["rationales"].path
        self._strata: dict[str, Counter[str]] = {}
        self._failed: Counter[str] = Counter()
        self._metrics: dict[str, float] = {}

    def read_all(self, judged: Iterator[Judged]) -> Iterator[Judged]:
        """The same questions and rationales in the same order, with what the second reader has changed in the verdicts.

        Nothing comes before everything is asked. Raises ClusterError when the endpoint does not have the reader, and
        InputError when too many requests fail.
        """
        self._workspace.mkdir()
        self._keep(judged)
        answered = self._ask()
        kept = tables.stream(self._workspace, Verdict)
        pairs = pairing.by_question(self._questions, tables.stream(self._rationales, Rationale))
        for question, rationales in pairs:
            num_verdicts = sum(rationale.condition == Condition.REAL for rationale in rationales)
            verdicts = list(itertools.islice(kept, num_verdicts))
            yield question, rationales, self._reread(question, verdicts, answered)
        limit = self._own.max_failed_share
        failures.check("second readings", self._num_read, self._failed, limit, self._own.stage)
        shutil.rmtree(self._workspace)

    def add_to(self, tally: Tally) -> None:
        """Count the second readings in a tally: all of them, what became of them by stratum, and what they took."""
        tally.rows["reread"] = self._num_read
        tally.metrics |= self._metrics
        tally.facts["reread"] = {stratum: dict(counts) for stratum, counts in sorted(self._strata.items())}

    @property
    def _num_read(self) -> int:
        return sum(counts["read"] for counts in self._strata.values())

    def _keep(self, judged: Iterator[Judged]) -> None:
        """Write the verdicts down until they are read."""
        total, done = tables.count(self._rationales, Rationale), 0
        with tables.writer(self._workspace, Verdict) as write:
            for _, rationales, verdicts in judged:
                for verdict in verdicts:
                    write(verdict)
                done += len(rationales)
                self._task.progress(done, total, "rationales judged")

    def _ask(self) -> Iterator[Answered]:
        """The answers to all requests, in order; those that the ledger lacks are asked for first."""
        folder = ledger.folder_of(self._ledger, self._own)
        asked = RequestSet(self._own, self._asked)
        plan = asked.write_plan(Ledger(folder), self._workspace / "plan.arrow")
        settled = f", {plan.num_settled} of which are in the ledger, {folder}" if plan.num_settled else ""
        self._task.progress.say(f"{self._own.model.name} reads {plan.num_requests} rationales{settled}")
        if plan.num_open:
            endpoint.check(self._own)
            progress = InferenceProgress(self._task, self._own, plan)
            job = InferenceJob(config=self._own, images=self._questions, ledger=folder, plan=plan.path)
            for account in worker.work_through(job, plan):
                progress.add(account)
            made = progress.metrics()
            self._metrics = {f"{METRIC}{name}": made[name] for name in _METRICS}
        return asked.answers(Ledger(folder))

    def _asked(self) -> Iterator[tuple[Question, list[Request]]]:
        for question, verdicts in pairing.by_question(self._questions, tables.stream(self._workspace, Verdict)):
            if requests := requests_of(question, verdicts, self._own):
                yield question, requests

    def _reread(self, question: Question, verdicts: list[Verdict], answered: Iterator[Answered]) -> list[Verdict]:
        """A question's verdicts after the second reading. answered: goes on with those to this question's requests."""
        asked = requests_of(question, verdicts, self._own)
        read = {each.request.id: each.attempt for each in itertools.islice(answered, len(asked))}
        counts = self._strata.setdefault(question.stratum, Counter()) if asked else Counter()
        after: list[Verdict] = []
        for verdict in verdicts:
            status, reason = Status(verdict.status), verdict.reason
            if verdict.accepted:
                status, reason = outcome(question, read[_request(question, verdict, self._own).id])
                counts.update(["read", _COUNTED_AS.get(reason, "failed")])
                if status is Status.FAILED:
                    self._failed[reason.removeprefix(FAILED)] += 1
            after.append(dataclasses.replace(verdict, status=status, reason=reason))
        return after


def outcome(question: Question, attempt: Attempt) -> tuple[Status, str]:
    """Status and reason of an accepted verdict after a second reading.

    A request that failed, or whose answer was cut off, says nothing about the reasoning: it is counted as failed.
    """
    if attempt.status != Status.ANSWERED:
        return Status.FAILED, f"{FAILED}{attempt.error or attempt.status}"
    if attempt.finish_reason != "stop":
        return Status.FAILED, f"{FAILED}{TRUNCATED}"
    letter = answers.read(attempt.text, question.options, finish_reason=attempt.finish_reason).letter
    if letter is None:
        return Status.REJECTED, UNDECIDED
    return (Status.ACCEPTED, ACCEPTED) if letter == question.gold else (Status.REJECTED, DISAGREES)
