"""Sources -> questions: every row of every table becomes a sealed question, or is set aside with its reason.

The images move into the artifact as they passed the door, so that what is sealed is all that later stages need.
`python -m pipelines.questions check PATH` says beforehand what would become of a user's own table.
"""

import dataclasses
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra.digests import digest_json
from infra.errors import InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines import curation, intake, tables
from pipelines.intake import Intake
from pipelines.recipes import QuestionsConfig
from pipelines.records import Caption, Question, SetAside, Split, StoredImage
from pipelines.sources import source
from pipelines.sources.drafts import QUARANTINED, REJECTED, Draft

_SCRATCH = "scratch"


def run(task: Task) -> Tally:
    """Read the sources; write `questions.parquet`, `captions.parquet`, `set_aside.parquet`, `images.parquet` and
    `images/`.

    Raises InputError when no row gives a question.
    """
    tally = read(task)
    if not tally.rows["questions"]:
        kept_back = tally.reasons | tally.quarantined
        raise InputError(f"{tally.rows['read']} rows were read, and none is a question: {kept_back}")
    return tally


def read(task: Task) -> Tally:
    """The same, also when no row gives a question."""
    config: QuestionsConfig = task.config
    base = config.folder or (str(task.inputs["source"].path) if task.inputs else "/")
    sources = [source.find(each, base) for each in config.sources]
    scratch = task.draft / _SCRATCH
    scratch.mkdir()
    rows = intake.read(sources, scratch, config.limit, task.progress)
    looked = intake.look(rows, task.draft, config.max_pixels, task.progress, large=intake.is_large(sources))
    usable = intake.usable_rows(rows, looked)
    fates = curation.fates(intake.columns(rows, looked, usable), config.curation)
    account = _write(task, rows, looked, _Judged.of(rows, usable, fates))
    shutil.rmtree(scratch)
    notes = [note for artifact in task.inputs.values() for note in artifact.tally["facts"].get("notes", ())]
    return account.tally(rows.num_rows, fates, notes)


@dataclasses.dataclass(frozen=True)
class _Judged:
    """What is known of each row that is a question as far as its table goes, by its place among these.

    usable: all its images are. reason: index in curation.REASONS, 0 for a question. start: of its images in
    `image_number`; one entry more than rows.
    """

    usable: curation.Mask
    reason: np.ndarray
    validation: curation.Mask
    start: np.ndarray

    @classmethod
    def of(cls, rows: Intake, usable: curation.Mask, fates: curation.Fates) -> "_Judged":
        """Of all such rows: what curation said of the usable ones, put back in their places."""
        reason, validation = np.zeros(len(usable), np.int8), np.zeros(len(usable), bool)
        reason[usable], validation[usable] = fates.reasons, fates.validation
        return cls(usable, reason, validation, np.searchsorted(rows.image_row, np.arange(len(usable) + 1)))


@dataclasses.dataclass
class _Account:
    """Counts what became of the rows."""

    splits: Counter[str] = dataclasses.field(default_factory=Counter)
    set_aside: dict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: {REJECTED: Counter(), QUARANTINED: Counter()}
    )
    before: Counter[str] = dataclasses.field(default_factory=Counter)
    after: Counter[str] = dataclasses.field(default_factory=Counter)
    changes: Counter[str] = dataclasses.field(default_factory=Counter)

    def tally(self, num_read: int, fates: curation.Fates, notes: list[str]) -> Tally:
        """rows read = questions + rejected + quarantined."""
        facts = {
            "contamination": fates.contamination,
            "duplicates": fates.duplicates,
            "letters": {"before": dict(sorted(self.before.items())), "after": dict(sorted(self.after.items()))},
            "image_changes": dict(self.changes),
        }
        return Tally(
            rows={
                "read": num_read,
                "questions": self.splits.total(),
                **{str(split): self.splits[split] for split in Split if self.splits[split] or split != "validation"},
            },
            reasons=dict(self.set_aside[REJECTED].most_common()),
            quarantined=dict(self.set_aside[QUARANTINED].most_common()),
            facts={"notes": notes, "curation": facts},
        )


def _write(task: Task, rows: Intake, looked: pa.Table, judged: _Judged) -> _Account:
    """Write the tables of the artifact, a row at a time."""
    account = _Account()
    shown = np.zeros(looked.num_rows, bool)
    with ExitStack() as writers:
        add = {kind: writers.enter_context(tables.writer(task.draft, kind)) for kind in (Question, Caption, SetAside)}
        for number, (draft, place, numbers, its_images) in enumerate(_drafts(rows, looked, judged), 1):
            for record in _records(draft, its_images, judged, place, task.config, account):
                add[type(record)](record)
                if isinstance(record, Question):
                    shown[numbers] = True
            task.progress(number, rows.num_rows, "rows written")
    stored = looked.filter(pa.array(shown)).select(StoredImage.schema().names)
    pq.write_table(stored, task.draft / f"{StoredImage.stem}.parquet")
    return account


def _drafts(
    rows: Intake, looked: pa.Table, judged: _Judged
) -> Iterator[tuple[Draft, int, list[int], list[dict[str, Any]]]]:
    """Every draft in order; its place among the parsed ones; and its images, by number and as they were looked at."""
    looked = looked.combine_chunks()
    place = 0
    for batch in pq.ParquetFile(rows.drafts).iter_batches(batch_size=intake.ROWS_AT_ONCE):
        last = place + pc.sum(pc.equal(batch["fate"], "")).as_py()
        numbers = np.unique(rows.image_number[judged.start[place] : judged.start[last]])
        images = dict(zip(numbers.tolist(), looked.take(pa.array(numbers)).to_pylist(), strict=True))
        for draft in map(Draft.from_dict, batch.to_pylist()):
            parsed = not draft.fate
            own = rows.image_number[judged.start[place] : judged.start[place + parsed]].tolist() if parsed else []
            yield draft, place, own, [images[number] for number in own]
            place += parsed


def _records(
    draft: Draft,
    its_images: list[dict[str, Any]],
    judged: _Judged,
    place: int,
    config: QuestionsConfig,
    account: _Account,
) -> Iterator[Question | Caption | SetAside]:
    """What becomes of a row: a question and its caption, or the reason why not."""
    if draft.fate:
        yield _set_aside(draft, draft.fate, draft.reason, account)
    elif not judged.usable[place]:
        name, reason = next((n, i["reason"]) for n, i in zip(draft.images, its_images, strict=True) if i["reason"])
        yield _set_aside(dataclasses.replace(draft, images=(name,)), QUARANTINED, reason, account)
    elif judged.reason[place]:
        yield _set_aside(draft, REJECTED, curation.REASONS[judged.reason[place]], account)
    else:
        question = _question(draft, its_images, judged.validation[place], config, account)
        yield question
        if draft.caption:
            yield Caption(question_id=question.id, text=draft.caption)


def _set_aside(draft: Draft, fate: str, reason: str, account: _Account) -> SetAside:
    account.set_aside[fate][reason] += 1
    image = draft.images[0] if draft.images else ""
    return SetAside(source=draft.source, file=draft.file, row=draft.row, fate=fate, reason=reason, image=image)


def _question(
    draft: Draft, its_images: list[dict[str, Any]], validation: bool, config: QuestionsConfig, account: _Account
) -> Question:
    identity = {
        "source": draft.source,
        "images": [[image["source_digest"], image["crop"]] for image in its_images],
        "text": draft.text,
        "options": draft.options,
    }
    digest = digest_json(identity)
    options, gold = draft.options, draft.gold
    split = Split.VALIDATION if validation and draft.split == Split.TRAIN else Split(draft.split)
    if split is not Split.TEST:
        account.before[gold] += 1
        if config.curation.shuffle_options:
            options, gold = curation.shuffled(options, gold, config.curation.seed, int(digest[:16], 16))
        account.after[gold] += 1
    account.splits[split] += 1
    for image in its_images:
        account.changes.update(image["changes"])
    return Question(
        id=digest[:16],
        source=draft.source,
        file=draft.file,
        row=draft.row,
        split=split,
        stratum=draft.stratum,
        topic=draft.topic,
        images=tuple(image["path"] for image in its_images),
        image_digests=tuple(image["digest"] for image in its_images),
        text=draft.text,
        options=options,
        gold=gold,
        figure=draft.figure,
        article=draft.article,
        evaluation_only=draft.evaluation_only,
    )


def of_split(questions_artifact: Path, split: Split) -> list[Question]:
    """The sealed questions of one split, in the order of the source."""
    return [question for question in tables.read(questions_artifact, Question) if question.split == split]


if __name__ == "__main__":
    from pipelines import command

    command.main(sys.argv[1:])
