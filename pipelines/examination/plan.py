"""What an examination is to show, written down before the first question is asked."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from infra.digests import digest_json
from pipelines.examination.measures.clusters import LEVELS
from pipelines.records import TAUGHT, Arm, Condition, check_each_once
from pipelines.records.entries import Entry

SCHEMA = "preceptor.analysis_plan/1"
_MOST_ALPHA = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedComparison:
    """treatment minus comparator, each an entry `ARM[+PROMPT][+Nshot]/CONDITION`, on one set (`source, file`), or on
    each set where it is empty."""

    treatment: str
    comparator: str
    examined_set: str = ""

    def __post_init__(self) -> None:
        for entry in (self.treatment, self.comparator):
            Entry.parse(entry)
        if self.treatment == self.comparator:
            raise ValueError(f"{self.treatment} is compared with itself: name another comparator")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnalysisPlan:
    """How an examination is analysed.

    primary: the comparison that decides, or None where nothing is compared. family: all comparisons whose p values are
    adjusted together (Holm), the primary one among them; what is not in it is exploratory. exclusions: which questions
    or answers are left out, in words; what could not be scored is never left out, but wrong. alpha: two-sided, of the
    family; intervals hold with 1 - alpha. clusters_by: what questions of one cluster share.
    """

    primary: PlannedComparison | None
    family: tuple[PlannedComparison, ...]
    exclusions: tuple[str, ...] = ()
    alpha: float = 0.05
    clusters_by: str = "article"

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= _MOST_ALPHA:
            raise ValueError(f"alpha is {self.alpha}: name a probability above 0, such as 0.05")
        if self.clusters_by not in LEVELS:
            raise ValueError(f"clusters_by is {self.clusters_by!r}: name one of {', '.join(LEVELS)}")
        if self.primary is not None and self.primary not in self.family:
            raise ValueError("the primary comparison is not in the family: add it there")
        check_each_once([repr(comparison) for comparison in self.family])

    def as_dict(self) -> dict[str, Any]:
        """As it is sealed."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, plan: dict[str, Any]) -> "AnalysisPlan":
        """A sealed plan; raises ValueError for another schema, KeyError or TypeError for missing or unknown fields."""
        if plan["schema"] != SCHEMA:
            raise ValueError(f"the plan has the schema {plan['schema']!r}, and {SCHEMA} is read here")
        fields = {name: value for name, value in plan.items() if name != "schema"}
        primary, family = fields.pop("primary"), fields.pop("family")
        return cls(
            primary=PlannedComparison(**primary) if primary else None,
            family=tuple(PlannedComparison(**each) for each in family),
            exclusions=tuple(fields.pop("exclusions")),
            **fields,
        )

    @property
    def digest(self) -> str:
        """SHA-256 of the plan: a result that names it was planned so."""
        return digest_json(dataclasses.asdict(self))


def default_plan(entries: Sequence[str]) -> AnalysisPlan:
    """The plan of an examination that names none. entries: what is asked, each `ARM[+...]/CONDITION`.

    The primary comparison is the rationale arm, or the last one that was taught, with the untouched base under the real
    image; without a base, with the first arm. The family is every pair of entries under the real image.
    """
    real = dict.fromkeys(entry.replace("+circular", "") for entry in entries if entry.endswith(f"/{Condition.REAL}"))
    ordered = sorted(real, key=lambda entry: list(Arm).index(_arm(entry)))
    pairs = [PlannedComparison(treatment=b, comparator=a) for a, b in itertools.combinations(ordered, 2)]
    return AnalysisPlan(primary=_primary(ordered, pairs), family=tuple(pairs))


def _primary(ordered: list[str], pairs: list[PlannedComparison]) -> PlannedComparison | None:
    """Among the pairs, whose comparator comes before the treatment."""
    arms = [_arm(entry) for entry in ordered]
    taught = [arm for arm in arms if arm in TAUGHT]
    if not pairs:
        return None
    wanted = Arm.RATIONALE_THEN_ANSWER if Arm.RATIONALE_THEN_ANSWER in taught else (taught or arms)[-1]
    return next((pair for pair in pairs if _arm(pair.treatment) is wanted), pairs[0])


def _arm(entry: str) -> Arm:
    return Arm(entry.partition("/")[0].partition("+")[0])
