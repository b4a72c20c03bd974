"""Report -> page: one HTML document whose plots are SVG, with nothing to fetch from elsewhere; all text is escaped."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from pipelines.records import Condition
from pipelines.report import words

_TEMPLATES = Path(__file__).with_name("templates")
_ENDS = (0.02, 0.04, 0.06, 0.1, 0.16, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 2.0)  # of an axis of differences
_TABLES = ("comparisons", "grounding", "circular", "repeats", "seeds", "faithfulness")
_CUT_OFF = 0.01  # share of answers cut short from which a model is flagged


def page(
    report: Mapping[str, Any],
    shown: Sequence[Mapping[str, Any]],
    as_shown: Sequence[Mapping[str, Any]] = (),
    browsed: Mapping[str, Any] | None = None,
) -> str:
    """The report as HTML. shown: example questions. as_shown: images under each condition. browsed: what
    `browser.write` says, with the `texts` of questions that all models miss; None where no such files are there."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(_TEMPLATES),
    )
    environment.filters |= {
        "percent": words.percent,
        "range": words.interval,
        "points": words.points,
        "tick": words.tick,
        "p": words.probability,
        "entry": words.of_entry,
        "place": words.place,
        "plain": lambda text: str(text).replace("_", " "),
    }
    confidence = f"{100 * report['confidence']:g}"
    environment.globals |= {
        "confidence": confidence,
        "axis_end": axis_end,
        "beginnings": words.BEGINNINGS,
        "cut_off": _CUT_OFF,
    }
    template = environment.get_template("page.html.j2")
    return template.render(report=report, sets=_sets(report), examples=shown, as_shown=as_shown, browsed=browsed)


def axis_end(values: Sequence[float | None]) -> float:
    """The end of a symmetric axis on which all these differences have room."""
    largest = max((abs(value) for value in values if value is not None and math.isfinite(value)), default=0.0)
    return next((end for end in _ENDS if largest <= end), _ENDS[-1])


def _sets(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each examined set with what the report says about it."""
    found = []
    for baselines in report["baselines"]:
        key = (baselines["source"], baselines["file"])
        own = {name: _of(report[name], key) for name in ("examination", "power", "missed_by_all", *_TABLES)}
        if own["examination"]:
            labels = words.of_all([(entry["entry"], entry["seed"]) for entry in own["examination"]])
            entries = [{**entry, "label": label} for entry, label in zip(own["examination"], labels, strict=True)]
            named = {(entry["model"], entry["entry"]): entry["label"] for entry in entries}
            about = {
                "name": words.of_set(*key),
                "baselines": baselines,
                "labels": named,
                "maps": _maps(entries),
                "by_prompt": _by_prompt(entries),
            }
            found.append({**own, **about, "examination": entries, "compared": _compared(own["comparisons"])})
    return found


def _by_prompt(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each model that was asked in several words under the real image: how far its accuracy depends on them, and on
    how answers are read."""
    models: dict[str, list[Mapping[str, Any]]] = {}
    for entry in entries:
        if entry["condition"] == Condition.REAL:
            models.setdefault(entry["model"], []).append(entry)
    return [
        {
            "model": model,
            "entries": own,
            "letter": _range([entry["accuracy"] for entry in own]),
            "any": _range(
                [entry[rule]["accuracy"] for entry in own for rule in ("text_rule", "lenient") if rule in entry]
                + [entry["accuracy"] for entry in own]
            ),
        }
        for model, own in models.items()
        if len(own) > 1
    ]


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _of(rows: Sequence[Mapping[str, Any]], key: tuple[str, str]) -> list[Mapping[str, Any]]:
    return [row for row in rows if (row["source"], row["file"]) == key]


def _compared(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Family -> its comparisons: the planned ones first, and the primary one before all others."""
    ordered = sorted(rows, key=lambda row: (row["family"] != "planned", row["family"], not row["primary"]))
    return {family: list(own) for family, own in itertools.groupby(ordered, key=lambda row: row["family"])}


def _maps(entries: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Kind of part -> name -> each entry's score of it, or None; those kinds that have parts."""
    found = {}
    for kind in ("strata", "topics"):
        names = sorted({name for entry in entries for name in entry[kind]})
        if names:
            found[kind] = {name: [entry[kind].get(name) for entry in entries] for name in names}
    if found.get("strata", {}).keys() == found.get("topics", {}).keys():
        found.pop("topics", None)
    return found
