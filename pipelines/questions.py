"""A source -> questions: every row of the source becomes a sealed question or is counted with its reason.

The images move into the artifact under the digest of their bytes, so that what is sealed is all that later stages need.
"""

from collections import Counter
from pathlib import Path

from infra import stage
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import images, tables
from pipelines.records import Question, Split
from pipelines.sources import folder


def run(task: Task) -> Tally:
    """Read the source's folder; write `questions.parquet` and `images/`."""
    source = Path(task.config.folder) if task.config.folder else task.inputs["source"].path
    lines = list(folder.rows(source))[: task.config.limit]
    questions: dict[str, Question] = {}
    reasons: Counter[str] = Counter()
    for number, line in enumerate(lines, start=1):
        try:
            question, data = folder.question(line, source, task.config.source_name)
        except (folder.RejectedError, images.UnreadableImageError) as error:
            reasons[str(error)] += 1
        else:
            if question.id in questions:
                reasons["duplicate"] += 1
            else:
                questions[question.id] = question
                _store(task.draft / question.image, data)
        task.progress(number, len(lines), "rows", rejected=reasons.total())
    if not questions:
        raise InputError(f"{source / folder.TABLE} has {len(lines)} rows and no question: {dict(reasons)}")
    tables.write(task.draft, Question, list(questions.values()))
    splits = Counter(question.split for question in questions.values())
    rows = {"read": len(lines), "questions": len(questions), **{str(split): splits[split] for split in Split}}
    notes = [note for artifact in task.inputs.values() for note in artifact.tally["facts"].get("notes", ())]
    return Tally(rows=rows, reasons=dict(reasons), facts={"notes": notes})


def of_split(questions_artifact: Path, split: Split) -> list[Question]:
    """The sealed questions of one split, in the order of the source."""
    return [question for question in tables.read(questions_artifact, Question) if question.split == split]


def _store(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


if __name__ == "__main__":
    stage.main("questions", "pipelines")
