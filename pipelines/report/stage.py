"""Predictions -> report: numbers that never stand alone, the account of every question, and answers to look through.

`report.json` is for machines. `index.html` is the page, with all numbers in it; the questions that can be looked
through on it lie in files beside it.
"""

import posixpath
from collections import Counter
from collections.abc import Mapping
from typing import Any

from infra.manifest import Artifact, Tally, write_json
from infra.stage import Task
from pipelines.examination import metrics
from pipelines.examination import plan as plans
from pipelines.examination.answer_sheets import ExaminedSet, examined_sets
from pipelines.examination.plan import AnalysisPlan
from pipelines.inference import prompts
from pipelines.records import Prediction, Question, Split, tables
from pipelines.records.entries import Prompt
from pipelines.report import answers, browser, examples, outcomes, schema, tracked, words
from pipelines.report.config import ReportConfig
from pipelines.report.page import page

_MOST_STRATA = 4  # of which each has a column in a line for the terminal
_NO_PLAN = "No plan of analysis was written before the first question was asked: every comparison is exploratory."
_PLACEHOLDER = Question(
    id="", source="", split="", images=(), image_digests=(), text="QUESTION", options=("OPTION", "OPTION"), gold="A"
)


def run(task: Task) -> Tally:
    """Write `report.json`, `index.html` and the files that the page loads."""
    questions, examined = task.inputs["questions"].path, task.inputs["examination"].path
    test = list(tables.stream(questions, Question, split=Split.TEST))
    plan = plans.sealed(examined)
    clusters_by = (plan or metrics.NO_PLAN).clusters_by
    sets = examined_sets(answers.without_texts(examined), test, clusters_by)
    report = made(task.config, task.inputs, sets, plan)
    schema.check(report)
    write_json(task.draft / "report.json", report)
    _write_page(task, report, test, sets, plan)
    for line in table_lines(report["examination"]):
        task.progress.say(line)
    rows = {"predictions": tables.count(examined, Prediction), "examination": len(report["examination"])}
    return Tally(rows=rows, metrics=tracked.metrics(report))


def made(
    config: ReportConfig, inputs: Mapping[str, Artifact], sets: list[ExaminedSet], plan: AnalysisPlan | None
) -> dict[str, Any]:
    """The report as JSON values; `schema.KEYS` says what they are."""
    noise = {known.file: metrics.LabelNoise(known.share, known.source) for known in config.label_noise}
    found = metrics.summary(sets, plan, noise)
    facts = inputs["questions"].tally["facts"]
    missed = [outcomes.missed_by_all(examined) for examined in sets]
    unplanned = [_NO_PLAN] if plan is None and found["comparisons"] else []
    return {
        "schema": schema.SCHEMA,
        "title": config.title or title_of(inputs["questions"]),
        "notes": [*notes_on(inputs["verdicts"]), *facts.get("notes", ()), *config.notes, *unplanned],
        "accounting": accounting(inputs),
        "verdicts": account_of_verdicts(inputs["verdicts"]),
        "curation": facts.get("curation", {}),
        "examination": found.pop("entries"),
        **{name: value for name, value in found.items() if name != "schema"},
        "missed_by_all": [each for each in missed if each is not None],
        "asked_with": asked_with(inputs["examination"]),
        "inputs": {name: artifact.digest for name, artifact in inputs.items()},
        "made_with": {
            name: {"code": artifact.manifest.code, "packages": artifact.manifest.packages}
            for name, artifact in inputs.items()
        },
        "seconds": {name: artifact.manifest.seconds for name, artifact in inputs.items()},
    }


def _write_page(
    task: Task, report: dict[str, Any], test: list[Question], sets: list[ExaminedSet], plan: AnalysisPlan | None
) -> None:
    folder, config = task.inputs["questions"].path, task.config
    missed = {each["id"]: None for of_set in report["missed_by_all"] for each in of_set["questions"]}
    most_columns = max((len(outcomes.columns(examined)) for examined in sets), default=0)
    num_browsed = min(config.num_browsed, browser.MOST_ANSWERS // max(1, most_columns))
    of_id = {question.id: question for question in test}
    browsed = {each: of_id[each] for each in outcomes.chosen(sets, missed, plan, num_browsed)}
    exemplary = examples.spread(test, config.num_examples)
    said = list(answers.to(task.inputs["examination"].path, {*browsed, *(q.id for q in exemplary)}))
    about_browser = browser.write(task.draft, folder, browsed, said, sets, plan)
    shown = [*examples.tested(folder, exemplary, said), *examples.taught(task.inputs, config.num_examples // 2)]
    as_shown = examples.under_conditions(task.inputs, test, report["examination"])
    texts = {each: of_id[each].text for each in missed}
    html = page(report, shown, as_shown, {**about_browser, "texts": texts})
    (task.draft / "index.html").write_text(html, encoding="utf-8")


def title_of(questions: Artifact) -> str:
    """Names a report after the folder that the questions are from, or their sources where the flow drew them."""
    folder = questions.made_from["config"].get("folder") or ""
    sources = dict.fromkeys(source["source"] for source in questions.tally["facts"].get("sources", ()))
    return ", ".join(filter(None, ("Preceptor", posixpath.basename(folder.rstrip("/")) or ", ".join(sources))))


def notes_on(verdicts: Artifact) -> list[str]:
    """What a reader must know of the rationales."""
    if verdicts.tally["rows"].get("accepted", 1):
        return []
    return [
        "No rationale of the teacher was accepted: whatever their arm, the students learned the gold answers alone."
    ]


def accounting(inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Rows and reasons of every stage on the way, as each of them sealed them."""
    return {
        name: {
            "rows": artifact.tally["rows"],
            "rejected": artifact.tally["reasons"],
            "quarantined": artifact.tally.get("quarantined", {}),
        }
        for name, artifact in inputs.items()
    }


def account_of_verdicts(artifact: Artifact) -> dict[str, Any]:
    """What became of the rationales: asked = accepted + rejected + failed + quarantined, each by reason.

    Empty for verdicts of a stage that does not count in this way.
    """
    tally = artifact.tally
    if not {"rejected", "failed"} <= tally["facts"].keys():
        return {}
    rows = tally["rows"]
    return {
        "asked": rows["rationales"],
        "accepted": rows["accepted"],
        "rejected": tally["facts"]["rejected"],
        "failed": tally["facts"]["failed"],
        "quarantined": tally["quarantined"],
        "rules": tally["facts"].get("rules", {}),
        "selected": rows["selected"],
        "selected_hinted": rows.get("selected_hinted", 0),
        "questions": rows["questions"],
        "questions_taught": rows["questions_taught"],
        "questions_watched": rows.get("questions_watched", 0),
        "questions_probed": tally["facts"]["questions_probed"],
        "metrics": tally["metrics"],
    }


def asked_with(examination: Artifact) -> dict[str, Any]:
    """How the examination asked: its settings, and the words of its prompts, where this code still has them."""
    settings, digests = examination.made_from["config"], examination.made_from.get("prompts", {})
    told = {}
    for name in Prompt:
        digest = digests.get(f"examined/{name}")
        if digest is not None:
            is_same = digest == prompts.examined_digest(name)
            said = prompts.words(_PLACEHOLDER, name)
            told[name.value] = {
                "digest": digest,
                "system": said.system if is_same else None,
                "user": said.user if is_same else None,
            }
    return {
        "settings": {name: value for name, value in settings.items() if name != "plan"},
        "final_line": prompts.FINAL_LINE_INSTRUCTION if settings.get("final_line") else "",
        "prompts": told,
    }


def table_lines(entries: list[dict[str, Any]]) -> list[str]:
    """The examination as a plain table, for a log or a terminal."""
    sets = {_set_name(entry) for entry in entries}
    # One set alone is the run's, and needs no column; several must never be mistaken for one another.
    width = max(map(len, ("set", *sets))) + 2 if len(sets) > 1 else 0
    counts = Counter((_set_name(entry), entry["entry"]) for entry in entries)
    names = [
        entry["entry"] + f" seed {entry['seed']}" * (counts[_set_name(entry), entry["entry"]] > 1) for entry in entries
    ]
    room = max(map(len, ("entry", *names))) + 2
    strata = sorted({name for e in entries for name in e["strata"]})
    widths = {name: max(9, len(name) + 2) for name in strata if len(strata) <= _MOST_STRATA}
    heading = f"{'set':<{width}}" if width else ""
    apart = "".join(f"{name:>{own}}" for name, own in widths.items())
    lines = [f"{heading}{'entry':<{room}}{'n':>5}  {'accuracy':>8}  {'95 % interval':<14}{apart}"]
    for entry, name in zip(entries, names, strict=True):
        low, high = entry["interval"]
        apart = "".join(_stratum_accuracy(entry, stratum).rjust(own) for stratum, own in widths.items()).rstrip()
        told = (f"{_set_name(entry):<{width}}" if width else "") + f"{name:<{room}}{entry['asked']:>5}"
        lines.append(f"{told}  {entry['accuracy']:>8.3f}  {low:.3f} to {high:.3f}{apart}")
    return lines


def _stratum_accuracy(entry: Mapping[str, Any], stratum: str) -> str:
    """As it is printed; nothing where the entry's set has no such stratum."""
    return f"{entry['strata'][stratum]['accuracy']:.3f}" if stratum in entry["strata"] else ""


def _set_name(entry: Mapping[str, Any]) -> str:
    return words.of_set(entry["source"], entry["file"])
