"""Verdicts -> the stage's tally: how many rationales were accepted, and why the others were not."""

import dataclasses
from collections import Counter
from collections.abc import Iterable

from infra.manifest import Tally
from pipelines.records import Status, Verdict


@dataclasses.dataclass(kw_only=True)
class Account:
    """Counts of rationales: every one that was asked for is accepted, or is counted under one reason.

    rules: by reason, how many were rejected by each rule. strata: by stratum, how many rationales there were, and what
    became of them, by reason and by rule. agreement: the sum over the rationales that give an answer. questions_taught:
    questions with a selected rationale that students train on. questions_watched: those with one that students are only
    watched on, being in the validation split. questions_probed: questions whose answer was also asked for without their
    images. not_needed: how many of these did not need the images; a question counts by the share of its answers.
    probes: rationales that were asked for without the questions' own images. validation: ids of the validation split's
    questions.
    """

    validation: frozenset[str] = frozenset()

    statuses: Counter[str] = dataclasses.field(default_factory=Counter)
    rejected: Counter[str] = dataclasses.field(default_factory=Counter)
    failed: Counter[str] = dataclasses.field(default_factory=Counter)
    quarantined: Counter[str] = dataclasses.field(default_factory=Counter)
    rules: dict[str, Counter[str]] = dataclasses.field(default_factory=dict)
    strata: dict[str, dict[str, Counter[str]]] = dataclasses.field(default_factory=dict)
    selected: int = 0
    hinted: int = 0
    questions: int = 0
    questions_taught: int = 0
    questions_watched: int = 0
    questions_probed: int = 0
    not_needed: float = 0.0
    probes: int = 0
    answered: int = 0
    agreement: float = 0.0

    @property
    def rationales(self) -> int:
        """All that were asked for with the questions' own images."""
        return self.statuses.total()

    @property
    def accepted(self) -> int:
        """How many may teach."""
        return self.statuses[Status.ACCEPTED]

    @property
    def reasons(self) -> Counter[str]:
        """How many were rejected or failed, by reason."""
        return self.rejected + self.failed

    def add(self, verdicts: Iterable[Verdict], num_probes: int = 0, *, stratum: str = "") -> None:
        """Count all verdicts on one question. stratum: the question's."""
        verdicts = list(verdicts)
        if verdicts:
            own = self.strata.setdefault(stratum, {"reasons": Counter(), "rules": Counter()})
            own["reasons"].update(verdict.reason for verdict in verdicts)
            own["rules"].update(verdict.rule for verdict in verdicts if verdict.rule is not None)
        by_status = {Status.REJECTED: self.rejected, Status.FAILED: self.failed, Status.QUARANTINED: self.quarantined}
        for verdict in verdicts:
            self.statuses[verdict.status] += 1
            self.answered += verdict.letter is not None
            self.agreement += verdict.agreement
            if not verdict.accepted:
                by_status[Status(verdict.status)][verdict.reason] += 1
            if verdict.rule is not None:
                self.rules.setdefault(verdict.reason, Counter())[verdict.rule] += 1
        teaching = [verdict for verdict in verdicts if verdict.selected]
        self.selected += len(teaching)
        self.hinted += sum(verdict.hinted for verdict in teaching)
        self.questions += bool(verdicts)
        watched = sum(verdict.question_id in self.validation for verdict in teaching[:1])
        self.questions_watched += watched
        self.questions_taught += len(teaching[:1]) - watched
        self.probes += num_probes
        tried = [v.image_not_needed for v in verdicts if v.letter and not v.hinted and v.image_not_needed is not None]
        if tried:
            self.questions_probed += 1
            self.not_needed += sum(tried) / len(tried)

    def tally(self) -> Tally:
        """rationales = accepted + reasons + quarantined."""
        kept_back = {status: self.statuses[status] for status in (Status.REJECTED, Status.FAILED, Status.QUARANTINED)}
        rows = {
            "rationales": self.rationales,
            "accepted": self.accepted,
            **{str(status): count for status, count in kept_back.items() if count},
            "selected": self.selected,
            **({"selected_hinted": self.hinted} if self.hinted else {}),
            "questions": self.questions,
            "questions_taught": self.questions_taught,
            **({"questions_watched": self.questions_watched} if self.questions_watched else {}),
            **({"probes": self.probes} if self.probes else {}),
        }
        metrics = {"accepted_share": round(self.accepted / max(self.rationales, 1), 4)}
        if self.answered:
            metrics["agreement"] = round(self.agreement / self.answered, 4)
        if self.questions_probed:
            metrics["image_not_needed_share"] = round(self.not_needed / self.questions_probed, 4)
        return Tally(
            rows=rows,
            reasons=dict(self.reasons.most_common()),
            quarantined=dict(self.quarantined.most_common()),
            metrics=metrics,
            facts={
                "rejected": dict(self.rejected.most_common()),
                "failed": dict(self.failed.most_common()),
                "rules": {reason: dict(counts.most_common()) for reason, counts in sorted(self.rules.items())},
                "strata": {
                    stratum: {name: dict(counts.most_common()) for name, counts in own.items()}
                    for stratum, own in sorted(self.strata.items())
                },
                "questions_probed": self.questions_probed,
            },
        )
