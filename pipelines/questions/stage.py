"""Sources -> questions: every row of every table becomes a sealed question, or is set aside with its reason.

The images move into the artifact as they passed the door, so that what is sealed is all that later stages need.
`python -m pipelines.questions check PATH` says beforehand what would become of a user's own table.
"""

import dataclasses
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import storage
from infra.digests import digest_json
from infra.errors import ConfigError, InputError
from infra.manifest import Tally
from infra.stage import Task
from pipelines.questions import curation, ingest
from pipelines.questions.candidates import QUARANTINED, REJECTED, Draft
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.ingest import Intake
from pipelines.questions.sources import shortage
from pipelines.questions.sources import source as reading
from pipelines.questions.sources.source import Source
from pipelines.records import Caption, Question, SetAside, Split, StoredImage, tables

_SCRATCH = "scratch"
Table = tuple[str, str]  # what a source is called, and its table's file name


def run(task: Task) -> Tally:
    """Read the sources; write `questions.parquet`, `captions.parquet`, `set_aside.parquet`, `images.parquet` and
    `images/`.

    Raises InputError when nothing is left to train on, or to examine: every later stage would be paid for in vain.
    """
    tally = read(task)
    if lacking := shortage.told(tally, task.config.curation, task.config.limit):
        raise InputError(" ".join(lacking))
    return tally


def read(task: Task) -> Tally:
    """The same, whatever is left."""
    config: QuestionsConfig = task.config
    base = config.folder or (str(task.inputs["source"].path) if task.inputs else "/")
    drawn: dict[str, Any] = next((artifact.tally["facts"] for artifact in task.inputs.values()), {})
    sources = [
        reading.find(dataclasses.replace(each, name=each.name or drawn.get("name")), base) for each in config.sources
    ]
    _check_names(sources)
    for source in sources:
        for done in reading.written(source):
            task.progress.say(f"{source.file}: {done}")
    scratch = task.draft / _SCRATCH
    scratch.mkdir()
    rows = ingest.read(sources, scratch, config.limit, task.progress)
    looked = ingest.look(rows, task.draft, config.max_pixels, task.progress, large=ingest.is_large(sources))
    usable = ingest.usable_rows(rows, looked)
    fates = curation.fates(ingest.columns(rows, looked, usable), config.curation)
    account = _write(task, rows, looked, _Judged.of(rows, usable, fates))
    shutil.rmtree(scratch)
    if account.num_rows != rows.num_rows:
        raise AssertionError(f"{rows.num_rows} rows were read, and {account.num_rows} are accounted for")
    return account.tally(sources, fates, drawn.get("notes", []))


def _check_names(sources: list[Source]) -> None:
    """Every number stands beside a source's name and its table's: two that share both could not be told apart."""
    for (name, file), count in Counter((source.name, source.file) for source in sources).items():
        if count > 1:
            raise ConfigError(
                f"{count} sources are called {name} and have a table {file}. Give each a name of its own."
            )


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
    """Counts what became of the rows: by table, status and reason, and of the questions by table and split.

    read_as: questions by what was not written in the plain way. lost: rows that are no questions, by split and reason,
    as far as their split is known.
    """

    set_aside: Counter[tuple[Table, str, str]] = dataclasses.field(default_factory=Counter)
    questions: Counter[tuple[Table, str]] = dataclasses.field(default_factory=Counter)
    letters: dict[str, Counter[str]] = dataclasses.field(
        default_factory=lambda: {"before": Counter(), "after": Counter()}
    )
    changes: Counter[str] = dataclasses.field(default_factory=Counter)
    read_as: Counter[str] = dataclasses.field(default_factory=Counter)
    lost: dict[str, Counter[str]] = dataclasses.field(default_factory=lambda: defaultdict(Counter))

    @property
    def num_rows(self) -> int:
        """All rows that were counted."""
        return self.set_aside.total() + self.questions.total()

    def tally(self, sources: list[Source], fates: curation.Fates, notes: list[str]) -> Tally:
        """rows read = questions + rejected + quarantined, of all sources and of each."""
        tables_read = [(source.name, source.file) for source in sources]
        whole = self._of(tables_read)
        splits = {str(split): sum(n for (_, s), n in self.questions.items() if s == split) for split in Split}
        if not splits[Split.VALIDATION]:
            del splits[Split.VALIDATION]
        each = [
            {"source": source.name, "file": source.file, "sha256": storage.digest(source.table)}
            | {"written": reading.written(source)}
            | self._of([table])
            for source, table in zip(sources, tables_read, strict=True)
        ]
        facts = {
            "contamination": fates.contamination,
            "duplicates": fates.duplicates,
            "letters": {name: dict(sorted(letters.items())) for name, letters in self.letters.items()},
            "image_changes": dict(sorted(self.changes.items(), key=lambda each: (-each[1], each[0]))),
            "read_as": dict(self.read_as.most_common()),
            "lost": {split: dict(reasons.most_common()) for split, reasons in sorted(self.lost.items())},
        }
        return Tally(
            rows={"read": whole["read"], "questions": whole["questions"], **splits},
            reasons=whole[REJECTED],
            quarantined=whole[QUARANTINED],
            facts={"notes": notes, "curation": facts, "sources": each},
        )

    def _of(self, tables_read: list[Table]) -> dict[str, Any]:
        """The account of some tables."""
        reasons: dict[str, Counter[str]] = {REJECTED: Counter(), QUARANTINED: Counter()}
        for (table, status, reason), count in self.set_aside.items():
            reasons[status][reason] += count * (table in tables_read)
        questions = sum(count for (table, _), count in self.questions.items() if table in tables_read)
        kept_back = {status: {r: n for r, n in counts.most_common() if n} for status, counts in reasons.items()}
        read = questions + sum(sum(counts.values()) for counts in kept_back.values())
        return {"read": read, "questions": questions, **kept_back}


def _write(task: Task, rows: Intake, looked: pa.Table, judged: _Judged) -> _Account:
    """Write the tables of the artifact, a row at a time."""
    account = _Account()
    shown = np.zeros(looked.num_rows, bool)
    task.progress(0, rows.num_rows, "rows written")
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
    account.changes = _changes(stored)
    return account


def _changes(stored: pa.Table) -> Counter[str]:
    """How many images were changed in which way. An image counts once, in however many rows and under however many
    names it is shown."""
    columns = (stored[name].to_pylist() for name in ("digest", "changes"))
    once = {(digest, tuple(changes)) for digest, changes in zip(*columns, strict=True)}
    return Counter(change for _, changes in once for change in changes)


def _drafts(
    rows: Intake, looked: pa.Table, judged: _Judged
) -> Iterator[tuple[Draft, int, list[int], list[dict[str, Any]]]]:
    """Every draft in order; its place among the parsed ones; and its images, by number and as they were looked at."""
    looked = looked.combine_chunks()
    place = 0
    for batch in pq.ParquetFile(rows.drafts).iter_batches(batch_size=ingest.ROWS_AT_ONCE):
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


def _set_aside(draft: Draft, status: str, reason: str, account: _Account) -> SetAside:
    account.set_aside[(draft.source, draft.file), status, reason] += 1
    if draft.split:
        account.lost[draft.split][reason] += 1
    image = draft.images[0] if draft.images else ""
    return SetAside(source=draft.source, file=draft.file, row=draft.row, status=status, reason=reason, image=image)


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
        account.letters["before"][gold] += 1
        if config.curation.shuffle_options:
            options, gold = curation.shuffled(options, gold, config.curation.seed, int(digest[:16], 16))
        account.letters["after"][gold] += 1
    account.questions[(draft.source, draft.file), split] += 1
    account.read_as.update(draft.read_as)
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
