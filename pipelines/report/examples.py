"""Questions to look at on the page itself, with their images: answered, taught, and as conditions show them."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from infra.manifest import Artifact
from pipelines.images import sealed
from pipelines.images.sealed import SealedImage
from pipelines.inference import conditions
from pipelines.inference.conditions import ChangedImage
from pipelines.records import LETTERS, Condition, Prediction, Question, Verdict, tables
from pipelines.records.entries import Entry
from pipelines.report import answers, thumbnails, words

_NUM_UNDER_CONDITIONS = 3
_LENT = (Condition.SHUFFLED, Condition.SHUFFLED_IN_TASK)  # another question's images are shown
_OWN_OR_LENT = (Condition.REAL, *_LENT)
_MOST_CHARACTERS = 4000  # of a text


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """Questions from all strata of all sets in turn, in their order."""
    strata: dict[tuple[str, str, str], list[Question]] = {}
    for question in questions:
        strata.setdefault((question.source, question.file, question.stratum), []).append(question)
    turns = [group[turn] for turn in range(count) for _, group in sorted(strata.items()) if turn < len(group)]
    return turns[:count]


def tested(folder: Path, questions: Sequence[Question], said: Iterable[Prediction]) -> list[dict[str, Any]]:
    """Test questions with every model's answer. folder: of the questions artifact."""
    by_question: dict[str, list[Prediction]] = {question.id: [] for question in questions}
    for prediction in said:
        if prediction.question_id in by_question:
            by_question[prediction.question_id].append(prediction)
    return [{"question": shown(q, folder), "answers": [_answer(p) for p in by_question[q.id]]} for q in questions]


def taught(inputs: Mapping[str, Artifact], count: int) -> list[dict[str, Any]]:
    """Training questions with the teacher's rationale: as many that teach as were kept back, with what became of it."""
    folder, verdicts = inputs["questions"].path, inputs["verdicts"].path
    chosen = [
        *islice((v for v in tables.stream(verdicts, Verdict) if v.selected), count),
        *islice((v for v in tables.stream(verdicts, Verdict) if not v.accepted), count),
    ]
    asked = answers.questions(folder, {verdict.question_id for verdict in chosen})
    return [{"question": shown(asked[v.question_id], folder), "verdict": v.as_dict()} for v in chosen]


def under_conditions(
    inputs: Mapping[str, Artifact], test: Sequence[Question], entries: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A few questions with their first image as each condition of the examination shows it."""
    asked = {Condition.REAL, *(Condition(entry["condition"]) for entry in entries)}
    shows = [each for each in Condition if each in asked and (each in _OWN_OR_LENT or each in conditions.CHANGING)]
    if len(shows) == 1:
        return []
    folder = inputs["questions"].path
    seed = inputs["examination"].made_from["config"].get("seed", 0)
    found = conditions.substitutes(folder, test, [each for each in shows if each in _LENT], seed)
    lent = {Condition.SHUFFLED: found.shuffled_from, Condition.SHUFFLED_IN_TASK: found.in_task}
    return [
        {
            "question": question,
            "images": [
                {"condition": words.of_condition(each), "url": thumbnails.as_url(image)}
                for each in shows
                if (image := _under(folder, question, each, lent.get(each, {}).get(question.id))) is not None
            ],
        }
        for question in spread(test, _NUM_UNDER_CONDITIONS)
    ]


def _under(
    folder: Path, question: Question, condition: Condition, lender: Question | None
) -> SealedImage | ChangedImage | None:
    """The first image that is shown; None where the question is not asked so."""
    if condition in _LENT:
        return sealed.of(folder, lender)[0] if lender else None
    if condition is Condition.MIRRORED and conditions.names_a_side(question):
        return None
    own = sealed.of(folder, question)[0]
    return ChangedImage(own, condition) if condition in conditions.CHANGING else own


def shown(question: Question, folder: Path) -> dict[str, Any]:
    """A question with its letters, its images as URLs that carry them, and the name of its set."""
    return {
        **question.as_dict(),
        "lettered": list(zip(LETTERS, question.options, strict=False)),
        "urls": [thumbnails.as_url(image) for image in sealed.of(folder, question)],
        "set": words.of_set(question.source, question.file),
    }


def _answer(prediction: Prediction) -> dict[str, Any]:
    asked = [words.of_entry(str(Entry.of(prediction)))]
    asked += [f"seed {prediction.seed}"] * bool(prediction.seed)
    asked += [f"options moved up by {prediction.rotation}"] * bool(prediction.rotation)
    asked += [f"asked again ({prediction.repeat})"] * bool(prediction.repeat)
    asked += [f"going on from {words.BEGINNINGS[prediction.prefill]}"] if prediction.prefill else []
    told = {**prediction.as_dict(), "text": prediction.text[:_MOST_CHARACTERS]}
    return {**told, "entry": ", ".join(asked), "correct": prediction.letter == prediction.gold}
