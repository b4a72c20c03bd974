"""Questions and what each model answered -> files beside the page, to look through them one at a time.

`browser/index.js` has the outcomes of all that can be looked through, for filters; `browser/000.js` and so on their
texts, some questions each, and `images/` small images: the page loads both when they are looked at. They are scripts
and no JSON, since a page that was opened from a disk may not read other files. All of it is ASCII without `<`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.examination.answer_sheets import Asked, ExaminedSet
from pipelines.examination.plan import AnalysisPlan
from pipelines.images import sealed
from pipelines.records import Prediction, Question, Status
from pipelines.report import outcomes, words
from pipelines.report.thumbnails import Folder

FOLDER = "browser"
IMAGES = "images"
MOST_ANSWERS = 40_000  # held in memory at a time
MOST_CHARACTERS = 1500  # of an answer
MOST_TEXT_BYTES = 14 << 20
MOST_IMAGE_BYTES = 18 << 20
_MOST_IMAGES = 4  # of a question
_AT_ONCE = 40  # questions in a file


def write(
    draft: Path,
    questions_artifact: Path,
    asked: Mapping[str, Question],
    answers: Iterable[Prediction],
    sets: Sequence[ExaminedSet],
    plan: AnalysisPlan | None,
) -> dict[str, Any]:
    """Write the files into the folder that the page will be in; what a reader must know about them.

    asked: the questions to look through, the most important first; those that find no room are left out.
    """
    outcomes_of = {
        question_id: (number, pattern)
        for number, examined in enumerate(sets)
        for question_id, pattern in zip(examined.ids, outcomes.patterns(examined), strict=True)
        if question_id in asked
    }
    said = _said(answers, {question_id: number for question_id, (number, _) in outcomes_of.items()}, sets)
    images, room = Folder(draft / IMAGES, MOST_IMAGE_BYTES), MOST_TEXT_BYTES
    rows, waiting = [], []
    for question_id, question in asked.items():
        number, pattern = outcomes_of[question_id]
        shown = _question(question) | {"answers": said[question_id]}
        room -= len(json.dumps(shown))
        if room < 0:
            break
        paths = [images.put(image) for image in sealed.of(questions_artifact, question)[:_MOST_IMAGES]]
        rows.append([number, question_id, pattern])
        waiting.append(shown | {"images": paths})
    _put(draft / FOLDER, rows, waiting, [_set(examined, plan) for examined in sets])
    return {
        "shown": len(rows),
        "of": sum(len(examined.ids) for examined in sets),
        "without_room": images.num_left_out,
        "most_characters": MOST_CHARACTERS,
    }


def _said(
    answers: Iterable[Prediction], set_of: Mapping[str, int], sets: Sequence[ExaminedSet]
) -> dict[str, list[list[Any] | None]]:
    """Question id -> the answer in each column of its set, None where there is none."""
    places = [{key: place for place, key in enumerate(outcomes.columns(examined))} for examined in sets]
    said: dict[str, list[list[Any] | None]] = {
        question_id: [None] * len(places[number]) for question_id, number in set_of.items()
    }
    for prediction in answers:
        key = Asked.of(prediction)
        if key.is_main and prediction.question_id in said:
            said[prediction.question_id][places[set_of[prediction.question_id]][key]] = _answer(prediction)
    return said


def _answer(prediction: Prediction) -> list[Any]:
    """Letter, why there is none, text, and its length where it is cut."""
    text = prediction.text if prediction.status == Status.ANSWERED else f"{prediction.status}: {prediction.error}"
    cut = len(text) if len(text) > MOST_CHARACTERS else 0
    return [prediction.letter, prediction.missing, text[:MOST_CHARACTERS], cut]


def _question(question: Question) -> dict[str, Any]:
    about = (question.file, question.row and f"row {question.row}", question.stratum, question.topic, question.figure)
    return {
        "id": question.id,
        "text": question.text,
        "options": question.options,
        "gold": question.gold,
        "about": ", ".join(str(each) for each in about if each),
        "moreImages": max(0, len(question.images) - _MOST_IMAGES),
    }


def _set(examined: ExaminedSet, plan: AnalysisPlan | None) -> dict[str, Any]:
    return {
        "name": words.of_set(examined.source, examined.file),
        "columns": words.of_all([(key.entry, key.seed) for key in outcomes.columns(examined)]),
        "pair": outcomes.pair(examined, plan),
    }


def _put(folder: Path, rows: list[list[Any]], shown: list[dict[str, Any]], sets: list[dict[str, Any]]) -> None:
    folder.mkdir()
    index = {"atOnce": _AT_ONCE, "sets": sets, "rows": rows}
    (folder / "index.js").write_text(f"flips.begin({_script(index)});\n", encoding="ascii")
    for number, start in enumerate(range(0, len(shown), _AT_ONCE)):
        texts = _script(shown[start : start + _AT_ONCE])
        (folder / f"{number:03d}.js").write_text(f"flips.take({number}, {texts});\n", encoding="ascii")


def _script(value: Any) -> str:
    """JSON that is JavaScript too, and ends no element of a page that it may be put in."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
