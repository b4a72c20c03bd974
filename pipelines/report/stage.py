"""Predictions -> report: accuracies with their n and interval, the account of every question, and examples to look at.

`report.json` is for machines; `index.html` is one file for a person, with nothing to fetch.
"""

import posixpath
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2

from infra.errors import InputError
from infra.manifest import Artifact, Tally, write_json
from infra.stage import Task
from pipelines.examination.metrics import examination
from pipelines.images import sealed
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.chat import image_url
from pipelines.records import LETTERS, Prediction, Question, Split, Verdict, tables
from pipelines.records.entries import Entry

SCHEMA = "preceptor.report/4"
_MOST_STRATA = 4  # of which each has a column in a line for the terminal
_TEMPLATE = Path(__file__).with_name("page.html.j2")


def run(task: Task) -> Tally:
    """Write `report.json` and `index.html`."""
    asked = {q.id: q for q in tables.read(task.inputs["questions"].path, Question)}
    facts = task.inputs["questions"].tally["facts"]
    test = [question for question in asked.values() if question.split == Split.TEST]
    examined = examination(tables.stream(task.inputs["examination"].path, Prediction), test)
    report = {
        "schema": SCHEMA,
        "title": task.config.title or title_of(task.inputs["questions"]),
        "notes": [*notes_on(task.inputs["verdicts"]), *facts.get("notes", ()), *task.config.notes],
        "accounting": accounting(task.inputs),
        "verdicts": account_of_verdicts(task.inputs["verdicts"]),
        "curation": facts.get("curation", {}),
        "examination": examined.pop("entries"),
        "baselines": examined.pop("baselines"),
        "statistics": examined,
        "inputs": {name: artifact.digest for name, artifact in task.inputs.items()},
        "seconds": {name: artifact.manifest.seconds for name, artifact in task.inputs.items()},
    }
    write_json(task.draft / "report.json", report)
    shown = examples(asked, task.inputs, task.config.num_examples)
    (task.draft / "index.html").write_text(page(report, shown), encoding="utf-8")
    for line in table_lines(report["examination"]):
        task.progress.say(line)
    num_predictions = tables.count(task.inputs["examination"].path, Prediction)
    return Tally(rows={"predictions": num_predictions, "examination": len(report["examination"])})


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


def examples(asked: Mapping[str, Question], inputs: Mapping[str, Artifact], count: int) -> list[dict[str, Any]]:
    """Test questions with every model's answer, and training questions with the teacher's rationale and its verdict."""
    folder = inputs["questions"].path
    tested = _spread([question for question in asked.values() if question.split == Split.TEST], count)
    by_question: dict[str, list[Prediction]] = {question.id: [] for question in tested}
    for prediction in tables.stream(inputs["examination"].path, Prediction):
        if prediction.question_id in by_question:
            by_question[prediction.question_id].append(prediction)
    folder_of_verdicts = inputs["verdicts"].path
    taught = islice((v for v in tables.stream(folder_of_verdicts, Verdict) if v.selected), count // 2)
    kept_back = islice((v for v in tables.stream(folder_of_verdicts, Verdict) if not v.accepted), count // 2)
    return [
        *({"question": _shown(q, folder), "answers": [_answer(p) for p in by_question[q.id]]} for q in tested),
        *({"question": _shown(asked[v.question_id], folder), "verdict": v.as_dict()} for v in (*taught, *kept_back)),
    ]


def page(report: Mapping[str, Any], shown: list[dict[str, Any]]) -> str:
    """The report as one self-contained HTML page; all text is escaped."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(report=report, sets=_sets(report), examples=shown)


def set_name(of: Mapping[str, Any]) -> str:
    """What a set is called: its source, and the source's file where there is one."""
    return ", ".join(filter(None, (of["source"], of["file"])))


def _sets(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each examined set with its name, its baselines and its examination."""
    entries: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in report["examination"]:
        entries.setdefault((entry["source"], entry["file"]), []).append(entry)
    baselines_of = {(baseline["source"], baseline["file"]): baseline for baseline in report["baselines"]}
    return [
        {"name": set_name(own[0]), "baselines": baselines_of[key], "examination": own} for key, own in entries.items()
    ]


def table_lines(entries: list[dict[str, Any]]) -> list[str]:
    """The examination as a plain table, for a log or a terminal."""
    names = {set_name(entry) for entry in entries}
    # One set alone is the run's, and needs no column; several must never be mistaken for one another.
    width = max(map(len, ("set", *names))) + 2 if len(names) > 1 else 0
    strata = sorted({name for e in entries for name in e["strata"]})
    widths = {name: max(9, len(name) + 2) for name in strata if len(strata) <= _MOST_STRATA}
    apart = "".join(f"{name:>{room}}" for name, room in widths.items())
    heading = f"{'set':<{width}}" if width else ""
    lines = [f"{heading}{'arm':<24}{'condition':<11}{'n':>5}  {'accuracy':>8}  {'95 % interval':<14}{apart}"]
    for entry in entries:
        low, high = entry["interval"]
        apart = "".join(_stratum_accuracy(entry, name).rjust(room) for name, room in widths.items()).rstrip()
        words = f"{set_name(entry):<{width}}" if width else ""
        words += f"{entry['arm']:<24}{entry['condition']:<11}{entry['asked']:>5}"
        lines.append(f"{words}  {entry['accuracy']:>8.3f}  {low:.3f} to {high:.3f}{apart}")
    return lines


def _stratum_accuracy(entry: Mapping[str, Any], stratum: str) -> str:
    """As it is printed; nothing where the entry's set has no such stratum."""
    return f"{entry['strata'][stratum]['accuracy']:.3f}" if stratum in entry["strata"] else ""


def _spread(questions: list[Question], count: int) -> list[Question]:
    """Questions from all strata of all sets in turn, in their order."""
    strata: dict[tuple[str, str, str], list[Question]] = {}
    for question in questions:
        strata.setdefault((question.source, question.file, question.stratum), []).append(question)
    turns = [group[turn] for turn in range(count) for _, group in sorted(strata.items()) if turn < len(group)]
    return turns[:count]


def _shown(question: Question, folder: Path) -> dict[str, Any]:
    return {
        **question.as_dict(),
        "lettered": list(zip(LETTERS, question.options, strict=False)),
        "urls": [_url(image) for image in sealed.of(folder, question)],
        "set": set_name(question.as_dict()),
    }


def _url(image: SealedImage) -> str:
    try:
        return image_url(image)
    except UnreadableImageError as error:
        raise InputError(f"{image}: {error}. It was readable when the questions were sealed.") from error


def _answer(prediction: Prediction) -> dict[str, Any]:
    asked = [str(Entry.of(prediction))]
    asked += [f"options moved up by {prediction.rotation}"] * bool(prediction.rotation)
    asked += [f"asked again ({prediction.repeat})"] * bool(prediction.repeat)
    asked += [f"going on from {prediction.prefill}"] * bool(prediction.prefill)
    return {**prediction.as_dict(), "entry": ", ".join(asked), "correct": prediction.letter == prediction.gold}
