"""The tally of the questions -> in plain words, whether any are left to train on and to examine; if not, what took them
and what to type."""

import json
from collections.abc import Mapping
from typing import Any

from infra.manifest import Tally
from pipelines.questions.curation import CurationConfig
from pipelines.questions.decontamination import Level
from pipelines.questions.set_aside_reasons import MEANING
from pipelines.records import Split

_PURPOSE = {Split.TRAIN: "to train on", Split.TEST: "to examine"}
_SHOWN = 3  # reasons
_NOT_OF_THE_IMAGE = (Level.FIGURE, Level.ARTICLE, Level.TEXT)


def explained(tally: Tally, curation: CurationConfig, limit: int | None) -> list[str]:
    """One sentence for each split that a flow needs and that has no question.

    tally: of the stage `questions`. curation, limit: its settings.
    """
    return [
        f"Nothing is left {purpose}: {_cause(tally, split, curation)}"
        + (
            f" Only the first {limit} rows of each split of a table were read, as questions.limit says."
            if limit
            else ""
        )
        for split, purpose in _PURPOSE.items()
        if not tally.rows[split]
    ]


def _cause(tally: Tally, split: Split, curation: CurationConfig) -> str:
    lost: Mapping[str, int] = tally.facts["curation"]["lost"].get(split, {})
    if (
        not lost
        and split is Split.TRAIN
        and (drawn := tally.rows.get(Split.VALIDATION, 0))
        and curation.validation_share
    ):
        return f"{drawn} questions are kept for validation. Lower questions.curation.validation_share."
    if not lost:
        set_aside = tally.reasons | tally.quarantined
        most = max(set_aside, key=lambda reason: set_aside[reason], default="")
        all_lost = bool(most) and sum(set_aside.values()) == tally.rows["read"]
        return (
            f"of {tally.rows['read']} rows, none that can be used has the split {split}"
            f"{f' (set aside: {_reasons(set_aside)})' if most else ''}. "
            + (
                f"{most}: {MEANING.get(most, most)}."
                if all_lost
                else "Write it into the column `split` of the rows that are meant for it."
            )
        )
    most = max(lost, key=lambda reason: lost[reason])
    return (
        f"of {sum(lost.values())} rows with the split {split}, none is kept ({_reasons(lost)}). "
        f"{most}: {MEANING.get(most, most)}. {_advice(most, curation)}"
    )


def _reasons(counts: Mapping[str, int]) -> str:
    most = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} {count}" for reason, count in most[:_SHOWN]) + (", ..." if len(most) > _SHOWN else "")


def _advice(reason: str, curation: CurationConfig) -> str:
    """What to do where this reason took the most rows."""
    level: Any = reason.removeprefix("contaminated_")
    if level in _NOT_OF_THE_IMAGE:
        kept = json.dumps([each for each in curation.decontaminate_by if each != level])
        return (
            f"Where that tells nothing of what is examined, as one wording for all questions does not, leave this "
            f"level out: --set 'questions.curation.decontaminate_by={kept}'"
        )
    if level == Level.IMAGE:
        return "Split the table by image: what examines must not teach."
    if level == Level.PERCEPTUAL:
        return "Split the table by what the images show: what examines must not teach."
    return "`python -m pipelines.questions check PATH` shows such rows."
