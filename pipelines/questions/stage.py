"""Sources -> questions: every row of every table becomes a sealed question, or is set aside with its reason.

Images are copied into the artifact as the image sandbox decoded them, so later stages need nothing but the artifact.
`python -m pipelines.questions check PATH` says beforehand what would become of a user's own table.
"""

import dataclasses
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
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
from pipelines.questions import curation, empty_splits, ingest
from pipelines.questions.candidates import QUARANTINED, REJECTED, Candidate
from pipelines.questions.config import QuestionsConfig
from pipelines.questions.curation import CurationResult
from pipelines.questions.ingest import IngestedRows
from pipelines.questions.look_alikes import LookAlikes, Pictures
from pipelines.questions.option_shuffling import shuffled
from pipelines.questions.row_keys import Mask
from pipelines.questions.sources import source as reading
from pipelines.questions.sources.source import Source
from pipelines.records import Caption, Question, SetAside, Split, StoredImage, tables

_SCRATCH = "scratch"
Table = tuple[str, str]  # a source's name, and its table's file name


def run(task: Task) -> Tally:
    """Read the sources; write `questions.parquet`, `captions.parquet`, `set_aside.parquet`, `images.parquet` and
    `images/`.

    Raises InputError when no question is left for training, or for examination: later stages would be paid for nothing.
    """
    tally = read(task)
    if lacking := empty_splits.explained(tally, task.config.curation, task.config.limit):
        raise InputError(" ".join(lacking))
    return tally


def read(task: Task) -> Tally:
    """The same, also when no question is left."""
    config: QuestionsConfig = task.config
    base = config.folder or (str(task.inputs["source"].path) if task.inputs else "/")
    drawn: dict[str, Any] = next((artifact.tally["facts"] for artifact in task.inputs.values()), {})
    sources = [
        reading.find(dataclasses.replace(each, name=each.name or drawn.get("name")), base) for each in config.sources
    ]
    _check_names(sources)
    for source in sources:
        for note in reading.format_notes(source):
            task.progress.say(f"{source.file}: {note}")
    scratch = task.draft / _SCRATCH
    scratch.mkdir()
    rows = ingest.read(sources, scratch, config.limit, task.progress)
    decoded = ingest.decode_images(rows, task.draft, config.max_pixels, task.progress, large=ingest.is_large(sources))
    usable = ingest.usable_rows(rows, decoded)
    keys = ingest.keys_of_usable(rows, decoded, usable)
    pictures = Pictures.of(ingest.digest_keys(decoded["pixel_digest"]), decoded, str(task.draft))
    alike = curation.look_alikes(keys, config.curation, pictures)
    curated = curation.curate(keys, config.curation, alike)
    account = _write(task, rows, decoded, _Judgements.of(rows, usable, curated))
    shutil.rmtree(scratch)
    if account.num_rows != rows.num_rows:
        raise AssertionError(f"{rows.num_rows} rows were read, and {account.num_rows} are accounted for")
    return account.tally(sources, curated, alike, drawn.get("notes", []))


def _check_names(sources: list[Source]) -> None:
    """Raise ConfigError for sources with the same name and table name, by which numbers are reported."""
    for (name, file), count in Counter((source.name, source.file) for source in sources).items():
        if count > 1:
            raise ConfigError(
                f"{count} sources are called {name} and have a table {file}. Give each a name of its own."
            )


@dataclasses.dataclass(frozen=True)
class _Judgements:
    """What becomes of each parsed row (see `IngestedRows`), by its index.

    usable: whether all of its images are. reason: index in curation.REASONS, 0 for a question. validation: whether it
    is in the validation split. start: index of its first image in `image_number`; one entry more than rows.
    """

    usable: Mask
    reason: np.ndarray
    validation: Mask
    start: np.ndarray

    @classmethod
    def of(cls, rows: IngestedRows, usable: Mask, curated: CurationResult) -> "_Judgements":
        """Of all parsed rows; `curated` has only the usable ones."""
        reason, validation = np.zeros(len(usable), np.int8), np.zeros(len(usable), bool)
        reason[usable], validation[usable] = curated.reasons, curated.validation
        return cls(usable, reason, validation, np.searchsorted(rows.image_row, np.arange(len(usable) + 1)))


@dataclasses.dataclass
class _Account:
    """Counts what became of the rows: set aside by table, status and reason; questions by table and split.

    letters: of the right options, before and after shuffling. changes: of stored images, by name. read_as: questions by
    what was not written in the plain way. lost: rows set aside, by split and reason, where their split is known.
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

    def tally(self, sources: list[Source], curated: CurationResult, alike: LookAlikes, notes: list[str]) -> Tally:
        """The tally of the artifact: rows read = questions + rejected + quarantined, of all sources and of each."""
        tables_read = [(source.name, source.file) for source in sources]
        whole = self._of(tables_read)
        splits = {str(split): sum(n for (_, s), n in self.questions.items() if s == split) for split in Split}
        if not splits[Split.VALIDATION]:
            del splits[Split.VALIDATION]
        each = [
            {"source": source.name, "file": source.file, "sha256": storage.digest(source.table)}
            | {"written": reading.format_notes(source)}
            | self._of([table])
            for source, table in zip(sources, tables_read, strict=True)
        ]
        facts = {
            "training_rows": curated.training,
            "contamination": curated.contamination,
            "look_alikes": {
                "images": alike.num_compared,
                "candidates": alike.num_candidates,
                "confirmed": len(alike.pairs),
            },
            "duplicates": curated.duplicates,
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


def _write(task: Task, rows: IngestedRows, decoded: pa.Table, judgements: _Judgements) -> _Account:
    """Write the tables of the artifact, a row at a time."""
    account = _Account()
    is_shown = np.zeros(decoded.num_rows, bool)
    task.progress(0, rows.num_rows, "rows written")
    with ExitStack() as writers:
        add = {kind: writers.enter_context(tables.writer(task.draft, kind)) for kind in (Question, Caption, SetAside)}
        for number, (candidate, index, image_numbers, images) in enumerate(_candidates(rows, decoded, judgements), 1):
            for record in _records(candidate, images, judgements, index, task.config, account):
                add[type(record)](record)
                if isinstance(record, Question):
                    is_shown[image_numbers] = True
            task.progress(number, rows.num_rows, "rows written")
    stored = decoded.filter(pa.array(is_shown)).select(StoredImage.schema().names)
    pq.write_table(stored, task.draft / f"{StoredImage.stem}.parquet")
    account.changes = _changes(stored)
    return account


def _changes(stored: pa.Table) -> Counter[str]:
    """Number of images that were changed, by the change. An image counts once, however many rows or names show it."""
    columns = (stored[name].to_pylist() for name in ("digest", "changes"))
    once = {(digest, tuple(changes)) for digest, changes in zip(*columns, strict=True)}
    return Counter(change for _, changes in once for change in changes)


_Images = list[dict[str, Any]]  # rows of `decode_images`'s table


def _candidates(
    rows: IngestedRows, decoded: pa.Table, judgements: _Judgements
) -> Iterator[tuple[Candidate, int, list[int], _Images]]:
    """Yield every candidate in order, with its index among the parsed rows, and the numbers and rows of its images."""
    decoded = decoded.combine_chunks()
    index = 0
    for batch in pq.ParquetFile(rows.candidates).iter_batches(batch_size=ingest.ROWS_AT_ONCE):
        last = index + pc.sum(pc.equal(batch["status"], "")).as_py()
        numbers = np.unique(rows.image_number[judgements.start[index] : judgements.start[last]])
        images = dict(zip(numbers.tolist(), decoded.take(pa.array(numbers)).to_pylist(), strict=True))
        for candidate in map(Candidate.from_dict, batch.to_pylist()):
            if candidate.status:
                yield candidate, index, [], []
                continue
            own = rows.image_number[judgements.start[index] : judgements.start[index + 1]].tolist()
            yield candidate, index, own, [images[number] for number in own]
            index += 1


def _records(
    candidate: Candidate,
    images: _Images,
    judgements: _Judgements,
    index: int,
    config: QuestionsConfig,
    account: _Account,
) -> Iterator[Question | Caption | SetAside]:
    """What becomes of a row: a question and its caption, or the reason why not."""
    if candidate.status:
        yield _set_aside(candidate, candidate.status, candidate.reason, account)
    elif not judgements.usable[index]:
        name, reason = next(
            (name, image["reason"]) for name, image in zip(candidate.images, images, strict=True) if image["reason"]
        )
        yield _set_aside(dataclasses.replace(candidate, images=(name,)), QUARANTINED, reason, account)
    elif judgements.reason[index]:
        yield _set_aside(candidate, REJECTED, curation.REASONS[judgements.reason[index]], account)
    else:
        question = _question(candidate, images, judgements.validation[index], config, account)
        yield question
        if candidate.caption:
            yield Caption(question_id=question.id, text=candidate.caption)


def _set_aside(candidate: Candidate, status: str, reason: str, account: _Account) -> SetAside:
    account.set_aside[(candidate.source, candidate.file), status, reason] += 1
    if candidate.split:
        account.lost[candidate.split][reason] += 1
    image = candidate.images[0] if candidate.images else ""
    return SetAside(
        source=candidate.source, file=candidate.file, row=candidate.row, status=status, reason=reason, image=image
    )


def _question(
    candidate: Candidate, images: _Images, validation: bool, config: QuestionsConfig, account: _Account
) -> Question:
    identity = {
        "source": candidate.source,
        "images": [[image["source_digest"], image["crop"]] for image in images],
        "text": candidate.text,
        "options": candidate.options,
    }
    digest = digest_json(identity)
    options, gold = candidate.options, candidate.gold
    split = Split.VALIDATION if validation and candidate.split == Split.TRAIN else Split(candidate.split)
    if split is not Split.TEST:
        account.letters["before"][gold] += 1
        if config.curation.shuffle_options:
            options, gold = shuffled(options, gold, config.curation.seed, int(digest[:16], 16))
        account.letters["after"][gold] += 1
    account.questions[(candidate.source, candidate.file), split] += 1
    account.read_as.update(candidate.read_as)
    return Question(
        id=digest[:16],
        source=candidate.source,
        file=candidate.file,
        row=candidate.row,
        split=split,
        stratum=candidate.stratum,
        topic=candidate.topic,
        images=tuple(image["path"] for image in images),
        image_digests=tuple(image["digest"] for image in images),
        text=candidate.text,
        options=options,
        gold=gold,
        figure=candidate.figure,
        article=candidate.article,
        evaluation_only=candidate.evaluation_only,
    )
