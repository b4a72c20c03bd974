"""Rationale -> verdict: whether what the teacher wrote may teach, why not, and which of a question's rationales do."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import pyarrow.parquet as pq

from infra.digests import digest_json
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines.records import Condition, Question, Rationale, Status, Verdict, pairing, tables
from pipelines.verification import checks, selection
from pipelines.verification.config import VerifyConfig

NOT_NEEDED = "image_not_needed"
OVER_SHARE = "hinted_over_share"


def verify(question: Question, rationales: Sequence[Rationale], config: VerifyConfig) -> list[Verdict]:
    """The verdicts on a question's rationales, in their order, those that teach selected.

    rationales: all about this question. Those asked for under other conditions get no verdict: they tell whether the
    images are needed.
    """
    real = [rationale for rationale in rationales if rationale.condition == Condition.REAL]
    probes = [rationale for rationale in rationales if rationale.condition != Condition.REAL]
    judged = [checks.judge(rationale, question, config) for rationale in real]
    unaided = [judgement.letter for judgement, rationale in zip(judged, real, strict=True) if not rationale.hinted]
    unseen = _letters_without_image(probes, question)
    verdicts = [
        _verdict(rationale, judgement, unaided, unseen, config)
        for rationale, judgement in zip(real, judged, strict=True)
    ]
    # Those that come first are those with the lowest numbers, wherever they stand.
    order = sorted((p for p, v in enumerate(verdicts) if v.accepted), key=lambda place: real[place].number)
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
    """A verdict, not selected yet. unaided: letters of the question's rationales that were written without a hint."""
    not_needed = None if unseen is None else judged.letter is not None and unseen == {judged.letter}
    status, reason = judged.status, judged.reason
    if not_needed and not config.image_not_needed_weight and status is Status.ACCEPTED:
        status, reason = Status.REJECTED, NOT_NEEDED
    return Verdict(
        rationale_id=rationale.id,
        question_id=rationale.question_id,
        status=status,
        reason=reason,
        selected=False,
        weight=config.image_not_needed_weight if not_needed else 1.0,
        letter=judged.letter,
        agreement=unaided.count(judged.letter) / len(unaided) if judged.letter and unaided else 0.0,
        image_not_needed=not_needed,
        hinted=rationale.hinted,
        text=rationale.text,
        body=judged.body,
    )


def run(task: Task) -> Tally:
    """Judge every rationale; write `verdicts.parquet`. Raises InputError when too few are left that may teach."""
    account, hinted = _judge(task)
    if surplus := _surplus(hinted, account.selected - len(hinted), task.config.max_hinted_share):
        account = _reject_surplus(task.draft, surplus, account.probes)
    if account.accepted < task.config.min_accepted:
        raise InputError(_too_few(account, task.config.min_accepted))
    if not account.accepted:
        task.progress.say("no rationale is accepted, so the arms will learn the gold answers alone")
    tally = account.tally()
    tally.figures |= _cost(task.inputs["rationales"].tally["figures"], account.accepted)
    return tally


def _too_few(account: "Account", least: int) -> str:
    """The error's words, and what to type."""
    reasons = dict(account.reasons | account.quarantined)
    few = (
        f"{account.accepted} of {account.rationales} rationales were"
        if account.accepted
        else (f"None of {account.rationales} rationales was")
    )
    return (
        f"{few} accepted: {reasons}. verify.min_accepted asks for {least}. Look at what the teacher wrote, and ask for "
        "more: --set teach.num_rationales=N. With --set verify.min_accepted=0 the flow goes on, and where none is "
        "accepted the students learn the gold answers alone."
    )


def _cost(figures: Mapping[str, float], accepted: int) -> dict[str, float]:
    """What an accepted rationale cost, all others counted in: tokens, and the engines' time in the run that sealed
    them."""
    names = {
        "output_tokens": "output_tokens_per_accepted",
        "engine_seconds_now": "engine_seconds_per_accepted",
        "gpu_seconds_now": "gpu_seconds_per_accepted",
    }
    return {told: round(figures[name] / accepted, 3) for name, told in names.items() if accepted and figures.get(name)}


def _judge(task: Task) -> tuple["Account", list[str]]:
    """Write all verdicts. Returns their account, and the digests of the selected hinted ones, in order."""
    folder = task.inputs["rationales"].path
    total = pq.read_metadata(folder / f"{Rationale.stem}.parquet").num_rows
    account, hinted = Account(), []
    task.progress(0, total, "rationales")
    with tables.writer(task.draft, Verdict) as write:
        pairs = pairing.by_question(task.inputs["questions"].path, tables.stream(folder, Rationale))
        for question, rationales in pairs:
            verdicts = verify(question, rationales, task.config)
            account.add(verdicts, num_probes=len(rationales) - len(verdicts))
            hinted += [_lot(verdict) for verdict in verdicts if _is_selected_hinted(verdict)]
            for verdict in verdicts:
                write(verdict)
            done = account.rationales + account.probes
            task.progress(done, total, "rationales", accepted=account.accepted)
    return account, hinted


def _is_selected_hinted(verdict: Verdict) -> bool:
    return verdict.selected and verdict.hinted


def _lot(verdict: Verdict) -> str:
    """What decides which hinted ones teach: what the rationale is, and never its place in a table."""
    return digest_json([verdict.question_id, verdict.rationale_id])[:16]


def _surplus(hinted: list[str], num_others: int, max_share: float) -> set[int]:
    """Which of the selected hinted ones, by number, are too many beside that many others."""
    share = Fraction(str(max_share))  # as it was typed: 0.1 is a tenth
    at_most = len(hinted) if share == 1 else int(share * num_others / (1 - share))
    return set(sorted(range(len(hinted)), key=lambda number: hinted[number])[at_most:])


def _reject_surplus(draft: Path, surplus: set[int], num_probes: int) -> "Account":
    """Write the verdicts once more, with surplus hinted ones rejected. Returns their account."""
    account, number = Account(probes=num_probes), itertools.count()
    rewritten = draft / "rewritten"
    rewritten.mkdir()
    with tables.writer(rewritten, Verdict) as write:
        for _, own in itertools.groupby(tables.stream(draft, Verdict), lambda verdict: verdict.question_id):
            verdicts = [
                dataclasses.replace(verdict, status=Status.REJECTED, reason=OVER_SHARE, selected=False)
                if _is_selected_hinted(verdict) and next(number) in surplus
                else verdict
                for verdict in own
            ]
            account.add(verdicts)
            for verdict in verdicts:
                write(verdict)
    (rewritten / f"{Verdict.stem}.parquet").replace(draft / f"{Verdict.stem}.parquet")
    rewritten.rmdir()
    return account


@dataclasses.dataclass(kw_only=True)
class Account:
    """Counts what became of rationales: every one asked for is accepted, or counted under one reason.

    agreement: summed over those that give an answer. not_needed: of the questions probed.
    """

    fates: Counter[str] = dataclasses.field(default_factory=Counter)
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    quarantined: Counter[str] = dataclasses.field(default_factory=Counter)
    selected: int = 0
    hinted: int = 0
    questions: int = 0
    taught: int = 0
    probed: int = 0
    not_needed: float = 0.0
    probes: int = 0
    answered: int = 0
    agreement: float = 0.0

    @property
    def rationales(self) -> int:
        """All that were asked for with the questions' own images."""
        return self.fates.total()

    @property
    def accepted(self) -> int:
        """How many may teach."""
        return self.fates[Status.ACCEPTED]

    @property
    def reasons(self) -> Counter[str]:
        """How many were rejected or failed, by reason."""
        return self.rejected + self.failed

    def add(self, verdicts: Iterable[Verdict], num_probes: int = 0) -> None:
        """Count all verdicts on one question."""
        verdicts = list(verdicts)
        kept_back = {
            Status.REJECTED: self.rejected,
            Status.FAILED: self.failed,
            Status.QUARANTINED: self.quarantined,
        }
        for verdict in verdicts:
            self.fates[verdict.status] += 1
            self.answered += verdict.letter is not None
            self.agreement += verdict.agreement
            if not verdict.accepted:
                kept_back[Status(verdict.status)][verdict.reason] += 1
        teaching = [verdict for verdict in verdicts if verdict.selected]
        self.selected += len(teaching)
        self.hinted += sum(verdict.hinted for verdict in teaching)
        self.questions += bool(verdicts)
        self.taught += bool(teaching)
        self.probes += num_probes
        # A question counts once, by the share of the answers to it, given without a hint, that need no image.
        tried = [v.image_not_needed for v in verdicts if v.letter and not v.hinted and v.image_not_needed is not None]
        self.probed += bool(tried)
        self.not_needed += sum(tried) / len(tried) if tried else 0

    def tally(self) -> Tally:
        """rationales = accepted + reasons + quarantined."""
        rows = {
            "rationales": self.rationales,
            "accepted": self.accepted,
            **{
                status: self.fates[status]
                for status in (Status.REJECTED, Status.FAILED, Status.QUARANTINED)
                if self.fates[status]
            },
            "selected": self.selected,
            **({"selected_hinted": self.hinted} if self.hinted else {}),
            "questions": self.questions,
            "questions_taught": self.taught,
            **({"probes": self.probes} if self.probes else {}),
        }
        figures = {"accepted_share": round(self.accepted / max(self.rationales, 1), 4)}
        if self.answered:
            figures["agreement"] = round(self.agreement / self.answered, 4)
        if self.probed:
            figures["image_not_needed_share"] = round(self.not_needed / self.probed, 4)
        return Tally(
            rows={str(name): count for name, count in rows.items()},
            reasons=_largest_first(self.reasons),
            quarantined=_largest_first(self.quarantined),
            figures=figures,
            facts={
                "rejected": _largest_first(self.rejected),
                "failed": _largest_first(self.failed),
                "questions_probed": self.probed,
            },
        )


def _largest_first(counts: Counter[str]) -> dict[str, int]:
    return dict(counts.most_common())
