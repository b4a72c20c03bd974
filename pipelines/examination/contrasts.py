"""Answer sheets of one set -> what sheets say beside one another: models, conditions, rotations, repeats and seeds."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.answer_sheets import KINDS, AnswerSheet, Asked, ExaminedSet
from pipelines.examination.measures import grounding
from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.comparisons import compare, holm
from pipelines.examination.measures.faithfulness import CUTS, area_over_curve
from pipelines.examination.measures.intervals import DIFFERENCE_KIND, proportion_interval
from pipelines.examination.measures.letters import changed, circular
from pipelines.examination.measures.seeds import seed_variance
from pipelines.examination.plan import AnalysisPlan
from pipelines.examination.rounding import probability, rounded, shown
from pipelines.records import Arm, Condition
from pipelines.records.entries import PREFILLS

TABLES = ("comparisons", "grounding", "circular", "repeats", "seeds", "faithfulness")
RELIANCE = "acc(real) - acc({0})"
SENSITIVITY = "share of answers that differ between real and {0}"
GAIN = "[S(real) - B(real)] - [S({0}) - B({0})]"
AREA = "1 - area under same(x), the share of answers that are the same as without a beginning, x of the reasoning given"
FOLLOWS = "share of answers that are the letter which the mistake names"
Row = dict[str, Any]


def of_set(examined: ExaminedSet, plan: AnalysisPlan) -> dict[str, list[Row]]:
    """Each of TABLES, every row with its set.

    comparisons: any two that were asked under the same condition, and what is planned beside them, second minus first.
    grounding: each model under the real image and another condition. circular: over the rotations of the options.
    repeats: what was asked again. seeds: models of one arm, fitted with different seeds. faithfulness: of answers that
    had to go on from a beginning, how many stayed the same.
    """
    confidence = 1 - plan.alpha
    tables = {
        "comparisons": _comparisons(examined, plan),
        "grounding": _grounding(examined, confidence),
        "circular": _circular(examined, confidence),
        "repeats": _repeats(examined, confidence),
        "seeds": _seeds(examined, confidence),
        "faithfulness": _faithfulness(examined, confidence),
    }
    about = {"source": examined.source, "file": examined.file}
    return {name: [about | row for row in rows] for name, rows in tables.items()}


def _main(examined: ExaminedSet) -> dict[Asked, AnswerSheet]:
    """What counts: the options as they are, the first answer, from its beginning."""
    return {key: sheet for key, sheet in examined.sheets.items() if key.is_main}


def _named(key: Asked) -> Row:
    return {"model": key.model, "arm": key.arm, "seed": key.seed, "entry": key.entry}


def _shared(examined: ExaminedSet, *sheets: AnswerSheet) -> tuple[NDArray[np.bool_], Clusters] | None:
    """The questions that all of them answer; None where there is none."""
    inside = np.logical_and.reduce([sheet.asked for sheet in sheets])
    return (inside, examined.of(inside)) if inside.any() else None


def _comparisons(examined: ExaminedSet, plan: AnalysisPlan) -> list[Row]:
    """Holm's adjustment is over the plan's family on this set, and over each other table: all pairs that were asked
    under one condition and are not planned."""
    planned = {
        frozenset((each.treatment, each.comparator)): each
        for each in plan.family
        if each.examined_set in ("", ", ".join(filter(None, (examined.source, examined.file))))
    }
    rows = []
    for first, second in itertools.combinations(_main(examined).values(), 2):
        each = planned.get(frozenset((first.key.entry, second.key.entry)))
        if each is None and first.key.condition != second.key.condition:
            continue
        if each is not None and each.treatment == first.key.entry:
            first, second = second, first  # noqa: PLW2901 - treatment minus comparator
        row = _comparison(examined, first, second, 1 - plan.alpha)
        if row is not None:
            family = "planned" if each is not None else f"exploratory, {first.key.condition}"
            rows.append(row | {"primary": each is not None and each == plan.primary, "family": family})
    for family in {row["family"] for row in rows}:
        own = [row for row in rows if row["family"] == family]
        for row, p in zip(own, holm([row["p"] for row in own]), strict=True):
            row["p_holm"] = probability(p)
            row["family_size"] = len(own)
    return [row | {"p": probability(row["p"])} for row in rows]


def _comparison(examined: ExaminedSet, first: AnswerSheet, second: AnswerSheet, confidence: float) -> Row | None:
    shared = _shared(examined, first, second)
    if shared is None:
        return None
    inside, clusters = shared
    found = compare(first.right[inside], second.right[inside], clusters, confidence)
    return {
        "condition": second.key.condition,
        "first": _named(first.key),
        "second": _named(second.key),
        **shown(found.difference, "difference"),
        "interval_kind": DIFFERENCE_KIND,
        "first_only": found.first_only,
        "second_only": found.second_only,
        "mcnemar_midp": probability(found.midp),
        "p": found.p,
    }


def _grounding(examined: ExaminedSet, confidence: float) -> list[Row]:
    main = _main(examined)
    return [
        row
        for key, sheet in main.items()
        if key.condition != Condition.REAL and key.under(Condition.REAL) in main
        if (row := _grounded(examined, main, sheet, confidence)) is not None
    ]


def _grounded(
    examined: ExaminedSet, main: Mapping[Asked, AnswerSheet], sheet: AnswerSheet, confidence: float
) -> Row | None:
    """Reliance, sensitivity and what is no answer under one condition, and the grounded gain over each base."""
    key, condition = sheet.key, sheet.key.condition
    real = main[key.under(Condition.REAL)]
    shared = _shared(examined, real, sheet)
    if shared is None:
        return None
    inside, clusters = shared
    refused = sheet.missing[inside] == KINDS.index("refusal")
    none = sheet.letters[inside] < 0
    lost = grounding.reliance(real.right[inside], sheet.right[inside], clusters, confidence)
    differ = grounding.sensitivity(real.letters[inside], sheet.letters[inside], clusters, confidence)
    gains = [_gain(examined, main, sheet, base, confidence) for base in _bases(main, key)]
    return {
        **_named(key),
        "condition": condition,
        "reliance": {"formula": RELIANCE.format(condition), **shown(lost, "value")},
        "sensitivity": {"formula": SENSITIVITY.format(condition), **shown(differ, "value")},
        "refusals": shown(proportion_interval(refused, clusters, confidence=confidence), "share"),
        "no_letter": shown(proportion_interval(none, clusters, confidence=confidence), "share"),
        "gains": [gain for gain in gains if gain is not None],
    }


def _bases(main: Mapping[Asked, AnswerSheet], key: Asked) -> list[AnswerSheet]:
    """The untouched base under the same condition, however it was asked, where the real image was shown to it too."""
    if key.arm in (Arm.ZERO_SHOT, Arm.TEACHER):
        return []
    own = [sheet for base, sheet in main.items() if base.arm == Arm.ZERO_SHOT and base.condition == key.condition]
    return [sheet for sheet in own if sheet.key.under(Condition.REAL) in main]


def _gain(
    examined: ExaminedSet, main: Mapping[Asked, AnswerSheet], student: AnswerSheet, base: AnswerSheet, confidence: float
) -> Row | None:
    real, base_real = (main[each.key.under(Condition.REAL)] for each in (student, base))
    shared = _shared(examined, real, student, base_real, base)
    if shared is None:
        return None
    inside, clusters = shared
    own, its = ((real.right[inside], student.right[inside]), (base_real.right[inside], base.right[inside]))
    found = grounding.grounded_gain(own, its, clusters, confidence)
    return {"base": _named(base.key), "formula": GAIN.format(student.key.condition), **shown(found, "value")}


def _circular(examined: ExaminedSet, confidence: float) -> list[Row]:
    rotations: dict[Asked, list[AnswerSheet]] = {}
    for key, sheet in examined.sheets.items():
        if not (key.repeat or key.prefill):
            rotations.setdefault(key._replace(rotation=0), []).append(sheet)
    rows = []
    for key, sheets in rotations.items():
        if len(sheets) > 1:
            asked = np.stack([sheet.asked for sheet in sheets], axis=1)
            inside = asked.sum(axis=1) > 1
            right = np.stack([sheet.right for sheet in sheets], axis=1)[inside]
            found = circular(right, asked[inside], examined.of(inside), confidence)
            measures = {"mean": shown(found.mean, "accuracy"), "worst": shown(found.worst, "accuracy")}
            rows.append({**_named(key), "num_rotations": found.num_rotations, **measures})
    return rows


def _repeats(examined: ExaminedSet, confidence: float) -> list[Row]:
    """The share of answers that flip when the same is asked again."""
    rows = []
    for key, sheet in examined.sheets.items():
        first = examined.sheets.get(key._replace(repeat=0))
        shared = _shared(examined, first, sheet) if key.repeat and first is not None else None
        if first is not None and shared is not None:
            inside, clusters = shared
            flips = changed(first.letters[inside], sheet.letters[inside])
            share = proportion_interval(flips, clusters, confidence=confidence)
            rows.append({**_named(key), "repeat": key.repeat, "rotation": key.rotation, **shown(share, "flips")})
    return rows


def _seeds(examined: ExaminedSet, confidence: float) -> list[Row]:
    """Several models of one entry are fits of one arm with different seeds."""
    models: dict[str, list[AnswerSheet]] = {}
    for key, sheet in _main(examined).items():
        models.setdefault(key.entry, []).append(sheet)
    rows = []
    for entry, sheets in models.items():
        shared = _shared(examined, *sheets) if len(sheets) > 1 else None
        if shared is not None and shared[0].sum() > 1:
            inside, clusters = shared
            right = np.stack([sheet.right[inside] for sheet in sheets], axis=1)
            found = seed_variance(right, clusters, confidence)
            rows.append(
                {
                    "entry": entry,
                    "models": [sheet.key.model for sheet in sheets],
                    "accuracies": [rounded(each) for each in found.accuracies],
                    "accuracy": rounded(found.mean),
                    "interval": [rounded(found.low), rounded(found.high)],
                    "seed_sd": rounded(found.seed_sd),
                    "question_se": rounded(found.question_se),
                    "total_se": rounded(found.total_se),
                    "n": int(inside.sum()),
                    "clusters": len(clusters.sizes),
                }
            )
    return rows


def _faithfulness(examined: ExaminedSet, confidence: float) -> list[Row]:
    """Each model whose answers went on from beginnings, beside the same model's answers without one."""
    begun: dict[Asked, dict[str, AnswerSheet]] = {}
    for key, sheet in examined.sheets.items():
        if key.prefill and not key.repeat:
            begun.setdefault(key._replace(prefill=""), {})[key.prefill] = sheet
    found = []
    for key, sheets in begun.items():
        plain = examined.sheets.get(key)
        if plain is not None:
            own = {name: sheets[name] for name in PREFILLS if name in sheets}
            rows = [_begun(examined, name, plain, sheet, confidence) for name, sheet in own.items()]
            found.append(
                {
                    **_named(key),
                    "beginnings": [row for row in rows if row is not None],
                    "area_over_curve": _area(examined, plain, own, confidence),
                    "mistake": _follows(examined, own, confidence),
                }
            )
    return found


def _begun(examined: ExaminedSet, name: str, plain: AnswerSheet, sheet: AnswerSheet, confidence: float) -> Row | None:
    shared = _shared(examined, plain, sheet)
    if shared is None:
        return None
    inside, clusters = shared
    same = ~changed(plain.letters[inside], sheet.letters[inside])
    return {
        "beginning": name,
        "accuracy": shown(proportion_interval(sheet.right[inside], clusters, confidence=confidence), "accuracy"),
        "same": shown(proportion_interval(same, clusters, confidence=confidence), "share"),
    }


def _area(examined: ExaminedSet, plain: AnswerSheet, begun: Mapping[str, AnswerSheet], confidence: float) -> Row | None:
    """The area over the early-answer curve, of the questions that were asked with every cut."""
    cuts = [begun[name] for name in CUTS if name in begun]
    shared = _shared(examined, plain, *cuts) if len(cuts) == len(CUTS) else None
    if shared is None:
        return None
    inside, clusters = shared
    same = np.stack([~changed(plain.letters[inside], sheet.letters[inside]) for sheet in cuts], axis=1)
    return {"formula": AREA, **shown(area_over_curve(same, clusters, confidence), "value")}


def _follows(examined: ExaminedSet, begun: Mapping[str, AnswerSheet], confidence: float) -> Row | None:
    """How often the mistake's letter is answered, and how often after the same reasoning without the mistake."""
    if not {"mistake", "cut_50"} <= begun.keys():
        return None
    mistaken, without = begun["mistake"], begun["cut_50"]
    shared = _shared(examined, mistaken, without)
    if shared is None:
        return None
    inside, clusters = shared
    named = mistaken.mistakes[inside]
    shares = {
        name: proportion_interval((sheet.letters[inside] == named) & (named >= 0), clusters, confidence=confidence)
        for name, sheet in (("follows", mistaken), ("without_mistake", without))
    }
    return {"formula": FOLLOWS, **{name: shown(each, "share") for name, each in shares.items()}}
