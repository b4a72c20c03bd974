"""Predictions -> scores: numbers that never stand alone, each with its n, its interval and its clusters."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination import contrasts
from pipelines.examination.answer_sheets import KINDS, NOT_ASKED, AnswerSheet, ExaminedSet, examined_sets
from pipelines.examination.measures import baselines as measures
from pipelines.examination.measures import power
from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.intervals import (
    PROPORTION_KIND,
    intracluster_correlation,
    label_noise_bounds,
    proportion_interval,
)
from pipelines.examination.measures.letters import position_bias
from pipelines.examination.plan import AnalysisPlan
from pipelines.examination.rounding import rounded, shown
from pipelines.records import LETTERS, Condition, Prediction, Question

SCHEMA = "preceptor.examination/1"
NO_PLAN = AnalysisPlan(primary=None, family=())


@dataclasses.dataclass(frozen=True)
class LabelNoise:
    """Share of a file's questions that are defective, and who says so."""

    share: float
    source: str


def examination(
    predictions: Iterable[Prediction],
    questions: Iterable[Question],
    plan: AnalysisPlan | None = None,
    label_noise: Mapping[str, LabelNoise] | None = None,
) -> dict[str, Any]:
    """All that an examination says, as JSON values.

    predictions: read once, and kept as a byte or two each. questions: those of the split `test`. plan: as it was
    sealed; without one nothing is primary, and each table is a family of its own. label_noise: by file.

    entries: one for each set (a file of a source), model, way to ask and condition, in the order of sets, arms and
    conditions. comparisons, grounding, circular, repeats, seeds, faithfulness: see `contrasts`. baselines, power: of
    each set. Unscored answers are wrong. Raises ValueError where predictions and questions do not fit together.
    """
    clusters_by = plan.clusters_by if plan else NO_PLAN.clusters_by
    return summary(examined_sets(predictions, questions, clusters_by), plan, label_noise)


def summary(
    sets: Iterable[ExaminedSet], plan: AnalysisPlan | None, label_noise: Mapping[str, LabelNoise] | None = None
) -> dict[str, Any]:
    """The same of sheets that are there."""
    sets, plan_or_none, plan = list(sets), plan, plan or NO_PLAN
    confidence = 1 - plan.alpha
    noise = label_noise or {}
    compared = [contrasts.of_set(examined, plan) for examined in sets]
    entries = [entry for examined in sets for entry in _entries(examined, confidence, noise.get(examined.file))]
    return {
        "schema": SCHEMA,
        "plan": {**plan.as_dict(), "digest": plan.digest} if plan_or_none else None,
        "confidence": confidence,
        "interval_kind": PROPORTION_KIND,
        "entries": entries,
        **{name: [row for each in compared for row in each[name]] for name in contrasts.TABLES},
        "baselines": [_baselines(examined, confidence) for examined in sets],
        "power": [_power(examined, each, plan.alpha) for examined, each in zip(sets, compared, strict=True)],
    }


def score(sheet: AnswerSheet, inside: NDArray[np.bool_], clusters: Clusters, confidence: float) -> dict[str, Any]:
    """asked = scored + unscored; accuracy = correct / asked, with its interval. inside: of the questions asked."""
    right, letters = sheet.right[inside], sheet.letters[inside]
    estimate = proportion_interval(right, clusters, confidence=confidence)
    unscored = int((letters < 0).sum())
    return {
        "asked": len(right),
        "scored": len(right) - unscored,
        "unscored": unscored,
        "correct": int(right.sum()),
        "accuracy": rounded(estimate.value),
        "interval": [rounded(estimate.low), rounded(estimate.high)],
        "interval_kind": PROPORTION_KIND,
        "clusters": estimate.num_clusters,
        "design_effect": rounded(estimate.design_effect),
        "caveat": estimate.caveat(of_share=True),
    }


def _entries(examined: ExaminedSet, confidence: float, noise: LabelNoise | None) -> list[dict[str, Any]]:
    own = [sheet for key, sheet in examined.sheets.items() if key.is_main]
    return [_entry(examined, sheet, confidence, noise) for sheet in own]


def _entry(examined: ExaminedSet, sheet: AnswerSheet, confidence: float, noise: LabelNoise | None) -> dict[str, Any]:
    asked, key = sheet.asked, sheet.key
    clusters = examined.of(asked)
    entry = {
        "source": examined.source,
        "file": examined.file,
        "model": key.model,
        "arm": key.arm,
        "seed": key.seed,
        "prompt": key.prompt,
        "num_shots": key.num_shots,
        "condition": key.condition,
        "entry": key.entry,
        **score(sheet, asked, clusters, confidence),
        "unscored_by_kind": _kinds(sheet),
        "letters": _letters(sheet),
        "strata": _apart(examined, sheet, examined.strata, examined.stratum_names, confidence),
        "topics": _apart(examined, sheet, examined.topics, examined.topic_names, confidence),
        "macro": _macros(examined, sheet, confidence),
        "baselines": _against(examined, sheet, clusters, confidence),
        "position": _position(sheet, examined.lengths.shape[1]),
        **_other_rules(sheet, clusters, confidence),
    }
    if noise is not None:
        low, high = label_noise_bounds(float(sheet.right[asked].mean()), noise.share)
        bounds = {"share": noise.share, "source": noise.source, "bounds": [rounded(low), rounded(high)]}
        entry["label_noise"] = bounds
    return entry


def _kinds(sheet: AnswerSheet) -> dict[str, int]:
    """Answers without a letter, by what they are instead; all kinds that occur."""
    counts = np.bincount(sheet.missing[sheet.missing >= 0], minlength=len(KINDS))
    return {kind: int(count) for kind, count in zip(KINDS, counts, strict=True) if count}


def _letters(sheet: AnswerSheet) -> dict[str, int]:
    """How often each letter was answered, and none."""
    numbers, counts = np.unique(sheet.letters[sheet.asked], return_counts=True)
    named = {(LETTERS[number] if number >= 0 else "none"): int(n) for number, n in zip(numbers, counts, strict=True)}
    return dict(sorted(named.items()))


def _apart(
    examined: ExaminedSet, sheet: AnswerSheet, codes: NDArray[np.int32], names: tuple[str, ...], confidence: float
) -> dict[str, Any]:
    """The score of each stratum or topic that has a name."""
    insides = {name: sheet.asked & (codes == number) for number, name in enumerate(names) if name}
    return {
        name: score(sheet, inside, examined.of(inside), confidence) for name, inside in insides.items() if inside.any()
    }


def _macros(examined: ExaminedSet, sheet: AnswerSheet, confidence: float) -> dict[str, Any]:
    """The mean of the accuracies of strata, and of topics, each counting the same; where there are several."""
    kinds = {"strata": (examined.strata, examined.stratum_names), "topics": (examined.topics, examined.topic_names)}
    macros = {name: _macro(examined, sheet, *about, confidence) for name, about in kinds.items()}
    return {name: macro for name, macro in macros.items() if macro is not None}


def _macro(
    examined: ExaminedSet, sheet: AnswerSheet, codes: NDArray[np.int32], names: tuple[str, ...], confidence: float
) -> dict[str, Any] | None:
    inside = sheet.asked & np.array([bool(name) for name in names])[codes]
    own = codes[inside]
    if len(np.unique(own)) < 2:  # noqa: PLR2004 - the mean of one is that one
        return None
    weights = 1 / np.bincount(own)[own]
    estimate = proportion_interval(
        sheet.right[inside], examined.of(inside), weights=weights, strata=own, confidence=confidence
    )
    return {"number": len(np.unique(own)), **shown(estimate, "accuracy")}


def _against(examined: ExaminedSet, sheet: AnswerSheet, clusters: Clusters, confidence: float) -> dict[str, Any]:
    """Whether the model can be told from guessing, and from always answering the most frequent letter, in words."""
    asked, gold = sheet.asked, sheet.gold[sheet.asked]
    majority = int(np.bincount(gold).argmax())
    compared = {
        "chance": (measures.guessing(examined.num_options[asked]), "chance"),
        "majority_letter": ((gold == majority).astype(float), f"what always answering {LETTERS[majority]} scores"),
    }
    found = {
        name: measures.against(sheet.key.entry, sheet.right[asked], scores, words, clusters, confidence)
        for name, (scores, words) in compared.items()
    }
    return {
        name: {**shown(each.difference, "difference"), "finding": each.finding, "sentence": each.sentence}
        for name, each in found.items()
    }


def _position(sheet: AnswerSheet, num_letters: int) -> dict[str, Any]:
    bias = position_bias(sheet.letters, sheet.gold, num_letters)
    return {
        "total_variation": rounded(bias.total_variation),
        **{
            name: {LETTERS[number]: rounded(share) for number, share in enumerate(getattr(bias, name))}
            for name in ("answered", "gold", "recall")
        },
    }


def _other_rules(sheet: AnswerSheet, clusters: Clusters, confidence: float) -> dict[str, Any]:
    """Accuracy if the option's text decides, where that differs, and as a lenient scorer has it."""
    found = {}
    for name, letters in (("text_rule", sheet.text_letters), ("lenient", sheet.lenient_letters)):
        if name == "lenient" or (letters != sheet.letters).any():
            right = (letters >= 0) & (letters == sheet.gold)
            found[name] = shown(proportion_interval(right[sheet.asked], clusters, confidence=confidence), "accuracy")
    return found


def _baselines(examined: ExaminedSet, confidence: float) -> dict[str, Any]:
    """What needs no model: guessing, the most frequent right letter, and the longest or shortest option."""
    letters, clusters = np.bincount(examined.gold), examined.of()
    majority = int(letters.argmax())
    chance, gold = measures.guessing(examined.num_options), examined.gold
    rules = {
        "majority_letter": gold == majority,
        "longest_option": measures.by_length(examined.lengths, gold, longest=True),
        "shortest_option": measures.by_length(examined.lengths, gold, longest=False),
    }
    scores = {name: proportion_interval(right, clusters, confidence=confidence) for name, right in rules.items()}
    return {
        "source": examined.source,
        "file": examined.file,
        "n": len(gold),
        "clusters": len(clusters.sizes),
        "chance": rounded(chance.mean()),
        "chance_interval": [rounded(end) for end in measures.guessing_range(examined.num_options, confidence)],
        "majority_letter": LETTERS[majority],
        **{f"{name}_accuracy": rounded(each.value) for name, each in scores.items()},
        **{f"{name}_interval": [rounded(each.low), rounded(each.high)] for name, each in scores.items()},
        "gold_letters": {LETTERS[number]: int(count) for number, count in enumerate(letters) if count},
    }


def _power(examined: ExaminedSet, compared: Mapping[str, list[dict[str, Any]]], alpha: float) -> dict[str, Any]:
    """Which difference between two models the set can show: of independent questions, and with the design effect that
    its comparisons have here (the median, at least 1); of each topic, as if independent."""
    clusters, n = examined.of(), len(examined.gold)
    effects = [row["design_effect"] for row in compared["comparisons"] if row["design_effect"] is not None]
    effect = max(1.0, float(np.median(effects))) if effects else 1.0
    real = [sheet for key, sheet in examined.sheets.items() if key.condition == Condition.REAL]
    correlations = [float(intracluster_correlation(s.right, clusters)) for s in real if (s.letters != NOT_ASKED).all()]
    smallest = {
        "independent": power.smallest_difference(n, alpha=alpha),
        "clustered": power.smallest_difference(n, alpha=alpha, effect=effect),
    }
    counts = {name: int((examined.topics == number).sum()) for number, name in enumerate(examined.topic_names) if name}
    return {
        "source": examined.source,
        "file": examined.file,
        "n": n,
        "clusters": len(clusters.sizes),
        "effective_clusters": rounded(clusters.effective),
        "icc": rounded(float(np.median(correlations))) if correlations else None,
        "design_effect": rounded(effect),
        "discordant": power.DISCORDANT,
        "power": power.POWER,
        "alpha": alpha,
        "smallest_difference": {name: rounded(each) for name, each in smallest.items()},
        "topics": {name: rounded(power.smallest_difference(count, alpha=alpha)) for name, count in counts.items()},
    }
