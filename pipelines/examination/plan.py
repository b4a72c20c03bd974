"""What an examination is to show, written down before the first question is asked."""

import dataclasses
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.digests import digest_json
from infra.errors import ArtifactError
from infra.manifest import write_json
from pipelines.examination.measures.clusters import LEVELS
from pipelines.records import TAUGHT, Arm, Condition, check_each_once
from pipelines.records.entries import Entry

SCHEMA = "preceptor.analysis_plan/1"
_FILE = "analysis_plan.json"
_MOST_ALPHA = 0.5
_EXCLUSIONS = (
    "Questions that make no sense under an entry's condition: mirrored where they name a side, the right option hidden "
    "where options refer to others, shuffled in its task where that has no other image. They are counted for each "
    "entry, as left_out.",
)


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


def seal(plan: AnalysisPlan, folder: Path) -> None:
    """Write a plan and its digest into the artifact that is being made."""
    write_json(folder / _FILE, {**plan.as_dict(), "digest": plan.digest})


def sealed(folder: Path) -> AnalysisPlan | None:
    """The plan of an examination's artifact; None where none was written. Raises ArtifactError for one that cannot be
    read, or is not what its digest says."""
    try:
        written = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        digest = written.pop("digest")
        plan = AnalysisPlan.from_dict(written)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{folder / _FILE} is no plan: {error}. Run the stage examination again.") from error
    if plan.digest != digest:
        raise ArtifactError(
            f"{folder / _FILE} was changed: its digest is another one. Run the stage examination again."
        )
    return plan


def default_plan(entries: Sequence[str], primary: str | None = None) -> AnalysisPlan:
    """The plan of an examination that names none. entries: what is asked, each `ARM[+...]/CONDITION`.

    The primary comparison is the entry named as `primary`, or the rationale arm, or the last one that was taught, with
    the untouched base under the real image; without a base, with the first arm. The family is every pair of entries
    under the real image.
    """
    parsed = [Entry.parse(text) for text in entries]
    real = dict.fromkeys(entry.plain for entry in parsed if entry.condition is Condition.REAL and not entry.prefilled)
    ordered = sorted(real, key=lambda entry: list(Arm).index(entry.arm))
    pairs = list(itertools.combinations(ordered, 2))
    named = {pair: PlannedComparison(treatment=str(pair[1]), comparator=str(pair[0])) for pair in pairs}
    chosen = _primary(ordered, pairs, Entry.parse(primary).plain if primary else None)
    return AnalysisPlan(primary=named[chosen] if chosen else None, family=tuple(named.values()), exclusions=_EXCLUSIONS)


def _primary(
    ordered: Sequence[Entry], pairs: Sequence[tuple[Entry, Entry]], named: Entry | None
) -> tuple[Entry, Entry] | None:
    """Among the pairs, whose comparator comes before the treatment."""
    if not pairs:
        return None
    arms = [entry.arm for entry in ordered]
    taught = [arm for arm in arms if arm in TAUGHT] or arms
    wanted = Arm.RATIONALE_THEN_ANSWER if Arm.RATIONALE_THEN_ANSWER in taught else taught[-1]
    of_arm = next((pair for pair in pairs if pair[1].arm is wanted), pairs[0])
    return next((pair for pair in pairs if pair[1] == named), of_arm)
