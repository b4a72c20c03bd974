"""Rationale -> verdict: whether it may teach and why not, and which of a question's accepted rationales do teach."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from infra.digests import digest_json
from infra.errors import InputError
from infra.manifest import Artifact, Tally
from infra.stage import Task
from pipelines.inference.backends import endpoint
from pipelines.records import Condition, Question, Rationale, Split, Status, Verdict, pairing, tables
from pipelines.verification import checks, reread, selection
from pipelines.verification.account import Account
from pipelines.verification.config import VerifyConfig
from pipelines.verification.reread import Judged, SecondReader

NOT_NEEDED = "image_not_needed"
OVER_SHARE = "hinted_over_share"


def verify(question: Question, rationales: Sequence[Rationale], config: VerifyConfig) -> list[Verdict]:
    """The verdicts on a question's rationales, in the same order; `selected` is set.

    rationales: all of them about this question. A rationale that was asked for under another condition than `real` gets
    no verdict: it only tells whether the images are needed.
    """
    return _selected(_judged(question, rationales, config), rationales, config)


def _judged(question: Question, rationales: Sequence[Rationale], config: VerifyConfig) -> list[Verdict]:
    """The same, and none of them is selected yet."""
    real = [rationale for rationale in rationales if rationale.condition == Condition.REAL]
    probes = [rationale for rationale in rationales if rationale.condition != Condition.REAL]
    judged = [checks.judge(rationale, question, config) for rationale in real]
    unaided = [judgement.letter for judgement, rationale in zip(judged, real, strict=True) if not rationale.hinted]
    unseen = _letters_without_image(probes, question)
    return [
        _verdict(rationale, judgement, unaided, unseen, config)
        for rationale, judgement in zip(real, judged, strict=True)
    ]


def _selected(verdicts: list[Verdict], rationales: Sequence[Rationale], config: VerifyConfig) -> list[Verdict]:
    """A question's verdicts with those that teach selected among the accepted ones."""
    numbers = [rationale.number for rationale in rationales if rationale.condition == Condition.REAL]
    # The first one is the one with the lowest number, wherever its row is.
    order = sorted((p for p, v in enumerate(verdicts) if v.accepted), key=lambda place: numbers[place])
    chosen = selection.choose([verdicts[place] for place in order], config.selection, config.keep)
    teaching = {order[each] for each in chosen}
    return [dataclasses.replace(verdict, selected=place in teaching) for place, verdict in enumerate(verdicts)]


def _letters_without_image(probes: Sequence[Rationale], question: Question) -> set[str | None] | None:
    """The letters that the teacher gives without the question's own images; None where it gave no answer at all."""
    if not any(probe.status == Status.ANSWERED for probe in probes):
        return None
    return {checks.read_letter(probe, question) for probe in probes}


def _verdict(
    rationale: Rationale,
    judged: checks.Judgement,
    unaided: list[str | None],
    unseen: set[str | None] | None,
    config: VerifyConfig,
) -> Verdict:
    """A verdict that is not selected yet.

    unaided: letters of the question's rationales that were written without a hint. unseen: letters that were given
    without the question's images; None where there is no answer of this kind.
    """
    not_needed = None if unseen is None else judged.letter is not None and unseen == {judged.letter}
    status, reason = judged.status, judged.reason
    if not_needed and not config.image_not_needed_weight and status is Status.ACCEPTED:
        status, reason = Status.REJECTED, NOT_NEEDED
    return Verdict(
        rationale_id=rationale.id,
        question_id=rationale.question_id,
        status=status,
        reason=reason,
        rule=judged.rule,
        selected=False,
        weight=config.image_not_needed_weight if not_needed else 1.0,
        letter=judged.letter,
        agreement=unaided.count(judged.letter) / len(unaided) if judged.letter and unaided else 0.0,
        image_not_needed=not_needed,
        hinted=rationale.hinted,
        text=rationale.text,
        body=judged.body,
    )


def sends(config: VerifyConfig, inputs: Mapping[str, Artifact]) -> list[dict[str, Any]]:
    """For a rehearsal: no engine is started. Raises ClusterError when the endpoint does not have the second reader."""
    if config.reread:
        endpoint.check(reread.inference(config.reread))
    return []


def run(task: Task) -> Tally:
    """Judge every rationale, have the second reader read what is accepted where the recipe names one, and write
    `verdicts.parquet`. Raises InputError when too few rationales may teach, or too many second readings fail."""
    reader = SecondReader(task) if task.config.reread else None
    judged = _judge_all(task)
    account, hinted = _select_all(task, reader.read_all(judged) if reader else judged)
    if surplus := _surplus(hinted, account.selected - len(hinted), task.config.max_hinted_share):
        account = _reject_surplus(task, surplus, account)
    if account.accepted < task.config.min_accepted:
        raise InputError(_too_few(account, task.config.min_accepted))
    if not account.accepted:
        task.progress.say("no rationale is accepted, so the arms will learn the gold answers alone")
    tally = account.tally()
    tally.metrics |= _cost(task.inputs["rationales"].tally["metrics"], account.accepted)
    if reader:
        reader.add_to(tally)
    return tally


def _too_few(account: Account, least: int) -> str:
    """The error's message, with what to type."""
    reasons = dict(account.reasons | account.quarantined)
    few = (
        f"{account.accepted} of {account.rationales} rationales were"
        if account.accepted
        else f"None of {account.rationales} rationales was"
    )
    return (
        f"{few} accepted: {reasons}. verify.min_accepted asks for {least}. Look at what the teacher wrote, and ask for "
        "more: --set teach.num_rationales=N. With --set verify.min_accepted=0 the flow goes on, and where none is "
        "accepted the students learn the gold answers alone."
    )


def _cost(metrics: Mapping[str, float], accepted: int) -> dict[str, float]:
    """What an accepted rationale cost, those that were not accepted included: tokens, and seconds of the engines in
    the run that sealed the rationales."""
    names = {
        "output_tokens": "output_tokens_per_accepted",
        "engine_seconds_now": "engine_seconds_per_accepted",
        "gpu_seconds_now": "gpu_seconds_per_accepted",
    }
    return {own: round(metrics[name] / accepted, 3) for name, own in names.items() if accepted and metrics.get(name)}


def _judge_all(task: Task) -> Iterator[Judged]:
    """Every question with rationales, with the verdicts on them, none of which is selected yet."""
    rationales = tables.stream(task.inputs["rationales"].path, Rationale)
    for question, own in pairing.by_question(task.inputs["questions"].path, rationales):
        yield question, own, _judged(question, own, task.config)


def _select_all(task: Task, judged: Iterable[Judged]) -> tuple[Account, list[str]]:
    """Write all verdicts. Returns their account, and a digest of each selected verdict that is hinted, in order."""
    total = tables.count(task.inputs["rationales"].path, Rationale)
    ids, splits = tables.columns(task.inputs["questions"].path, Question, ("id", "split"))
    validation = (name for name, split in zip(ids, splits, strict=True) if split == Split.VALIDATION)
    account, hinted = Account(validation=frozenset(validation)), []
    task.progress(0, total, "rationales")
    with tables.writer(task.draft, Verdict) as write:
        for question, rationales, unselected in judged:
            verdicts = _selected(unselected, rationales, task.config)
            account.add(verdicts, num_probes=len(rationales) - len(verdicts), stratum=question.stratum)
            # By this digest it is decided which hinted ones teach: it does not depend on a row's place in the table.
            hinted += [digest_json([v.question_id, v.rationale_id])[:16] for v in verdicts if v.selected and v.hinted]
            for verdict in verdicts:
                write(verdict)
            done = account.rationales + account.probes
            task.progress(done, total, "rationales", accepted=account.accepted)
    return account, hinted


def _surplus(hinted: list[str], num_others: int, max_share: float) -> set[int]:
    """Which of the selected hinted verdicts, by their number, have to go so that they are at most a share of all.

    hinted: their digests. num_others: how many selected verdicts are not hinted.
    """
    share = Fraction(str(max_share))  # as it was typed: 0.1 is a tenth
    at_most = len(hinted) if share == 1 else int(share * num_others / (1 - share))
    return set(sorted(range(len(hinted)), key=lambda number: hinted[number])[at_most:])


def _reject_surplus(task: Task, surplus: set[int], before: Account) -> Account:
    """Write the verdicts once more, with the surplus of hinted ones rejected. Returns their account."""
    account, number = Account(probes=before.probes, validation=before.validation), itertools.count()
    draft = task.draft
    rewritten = draft / "rewritten"
    rewritten.mkdir()
    with tables.writer(rewritten, Verdict) as write:
        for question, own in pairing.by_question(task.inputs["questions"].path, tables.stream(draft, Verdict)):
            verdicts = [
                dataclasses.replace(verdict, status=Status.REJECTED, reason=OVER_SHARE, selected=False)
                if verdict.selected and verdict.hinted and next(number) in surplus
                else verdict
                for verdict in own
            ]
            account.add(verdicts, stratum=question.stratum)
            for verdict in verdicts:
                write(verdict)
    (rewritten / f"{Verdict.stem}.parquet").replace(draft / f"{Verdict.stem}.parquet")
    rewritten.rmdir()
    return account
