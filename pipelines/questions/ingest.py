"""Sources -> drafts, and what is known of their images, at any size: rows are streamed, each image is looked at once.

What is held of a row are a few 64-bit keys; its text waits in the draft folder until its fate is known.
"""

import dataclasses
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import storage
from infra.progress import Progress
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sandbox import Door, Request
from pipelines.questions.candidates import QUARANTINED, Draft, key
from pipelines.questions.curation import Columns, Keys, Mask, mixed
from pipelines.questions.locations import Finder
from pipelines.questions.sources import source as reading
from pipelines.questions.sources.source import Source
from pipelines.records import Split, StoredImage

ROWS_AT_ONCE = 1024
IMAGES_PER_ZIP = 1024
LARGE_BYTES = 16 << 20  # of tables; smaller ones are read before a cluster's workers would be there
_DRAFTS = "drafts.parquet"
_KEYS = ("exact_key", "text_key", "options_key", "gold_key")
_LOOKED = pa.schema([*StoredImage.schema(), pa.field("reason", pa.string(), nullable=False)])
_UNUSABLE = StoredImage(
    path="", name="", crop="", source_digest="", digest="", pixel_digest="", perceptual_hash="", width=0, height=0,
    changes=(),
).as_dict()  # fmt: skip
T = TypeVar("T")
Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Intake:
    """All rows of the sources, and the images that they show.

    drafts: the Parquet file of all rows, in order. draft_row: for each row that is a question as far as its table goes,
    its place among all. keys: such rows' keys, by name. image_row, image_number: for each use of an image, the place
    of its row among these, and the image's among `requests`. requests: every image once; crops of one file are images
    of their own.
    """

    drafts: Path
    num_rows: int
    draft_row: Numbers
    evaluation: Mask
    keys: dict[str, Keys]
    image_row: Numbers
    image_number: Numbers
    requests: list[Request]


def is_large(sources: Sequence[Source]) -> bool:
    """Whether the work is worth a cluster's start."""
    return sum(storage.size(source.table) for source in sources) > LARGE_BYTES


def blocks(source: Source, limit: int | None) -> Iterator[pa.Table]:
    """A source's drafts with their images found, as tables of some rows each; `limit` rows at most."""
    finder = Finder(source)
    drafts = (_located(draft, finder) for draft in reading.drafts(source, limit))
    for portion in portions(drafts, ROWS_AT_ONCE):
        yield Draft.table(portion)


def _located(draft: Draft, finder: Finder) -> Draft:
    locations = []
    for image in () if draft.fate else draft.images:
        try:
            locations.append(finder.find(image))
        except UnreadableImageError as error:
            return dataclasses.replace(draft, fate=QUARANTINED, reason=str(error), images=(image,))
    return dataclasses.replace(draft, locations=tuple(locations))


def portions(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items, `size` at a time."""
    iterator = iter(items)
    while portion := list(islice(iterator, size)):
        yield portion


class _Collector:
    """Takes blocks of drafts as they come, and keeps of them what an Intake holds."""

    def __init__(self) -> None:
        self.num_rows = self._num_parsed = 0
        self._columns: list[dict[str, Any]] = []
        self._image_row, self._image_number = array("q"), array("q")
        self._requests: dict[Request, int] = {}

    def add(self, block: pa.Table) -> None:
        """Take the next rows."""
        parsed = pc.equal(block["fate"], "")
        rows = block.filter(parsed)
        self._columns.append(
            {name: rows[name].to_numpy() for name in _KEYS}
            | {name: _keys(rows[name]) for name in ("source", "figure", "article")}
            | {"draft_row": np.flatnonzero(parsed.to_numpy()) + self.num_rows}
            | {"evaluation": pc.equal(rows["split"], str(Split.TEST)).to_numpy()}
        )
        self._add_images(rows)
        self.num_rows += block.num_rows
        self._num_parsed += rows.num_rows

    def _add_images(self, rows: pa.Table) -> None:
        columns = (rows[name].to_pylist() for name in ("locations", "images", "crops", "stretch_tiff"))
        for place, (locations, names, crops, stretch) in enumerate(zip(*columns, strict=True), self._num_parsed):
            for location, name, crop in zip(locations, names, crops, strict=True):
                request = Request(location, name, crop, stretch)
                self._image_row.append(place)
                self._image_number.append(self._requests.setdefault(request, len(self._requests)))

    def intake(self, drafts: Path) -> Intake:
        """What was collected."""
        self.add(Draft.schema().empty_table())  # of a table without rows, too, every column is there
        columns = {name: np.concatenate([block[name] for block in self._columns]) for name in self._columns[0]}
        return Intake(
            drafts=drafts,
            num_rows=self.num_rows,
            draft_row=columns.pop("draft_row"),
            evaluation=columns.pop("evaluation"),
            keys=columns,
            image_row=np.array(self._image_row, np.int64),
            image_number=np.array(self._image_number, np.int64),
            requests=list(self._requests),
        )


def _keys(texts: pa.ChunkedArray) -> Keys:
    return np.array([key(text) if text else 0 for text in texts.to_pylist()], np.int64)


def read(sources: Sequence[Source], scratch: Path, limit: int | None, progress: Progress) -> Intake:
    """Read every row of the sources, `limit` of each at most, and find the images that they name."""
    streams = [partial(blocks, source, limit) for source in sources]
    if is_large(sources):
        from pipelines.questions import distributed

        found = distributed.blocks(streams)
    else:
        found = (block for stream in streams for block in stream())
    collector = _Collector()
    drafts = scratch / _DRAFTS
    with pq.ParquetWriter(drafts, Draft.schema()) as writer:
        for arrived in found:
            block = arrived.select(Draft.schema().names).cast(Draft.schema())
            writer.write_table(block)
            collector.add(block)
            progress.count(collector.num_rows, "rows")
    return collector.intake(drafts)


def look(intake: Intake, folder: Path, max_pixels: int, progress: Progress, *, large: bool) -> pa.Table:
    """Look at every image once and store what can be used below `folder`, some hundred to a zip.

    Returns StoredImage's columns and `reason`, empty where the image can be used; one row for each request, in order.
    """
    lumps = list(portions(intake.requests, IMAGES_PER_ZIP))
    (folder / "images").mkdir()
    if not lumps:
        return _LOOKED.empty_table()
    if large:
        from pipelines.questions import distributed

        streams = [partial(_looked, lump, number, folder, max_pixels) for number, lump in enumerate(lumps)]
        return _counted(distributed.blocks(streams), len(intake.requests), progress)
    with Door(max_pixels=max_pixels, workers=os.cpu_count() or 1) as door:
        looked = (_look_at(door, lump, number, folder) for number, lump in enumerate(lumps))
        return _counted(looked, len(intake.requests), progress)


def _counted(looked: Iterator[pa.Table], total: int, progress: Progress) -> pa.Table:
    blocks: list[pa.Table] = []
    done = unusable = 0
    progress(0, total, "images")
    for block in looked:
        blocks.append(block.select(_LOOKED.names).cast(_LOOKED))
        done += block.num_rows
        unusable += pc.sum(pc.not_equal(block["reason"], "")).as_py()
        progress(done, total, "images", unusable=unusable)
    return pa.concat_tables(blocks)


def _looked(requests: list[Request], number: int, folder: Path, max_pixels: int) -> Iterator[pa.Table]:
    """In a task: look at one lump of requests, with one child at its door."""
    with Door(max_pixels=max_pixels, workers=1) as door:
        yield _look_at(door, requests, number, folder)


def _look_at(door: Door, requests: list[Request], number: int, folder: Path) -> pa.Table:
    rows = [
        _UNUSABLE | {"reason": looked} if isinstance(looked, str) else looked.as_dict() | {"reason": ""}
        for looked in door.store(requests, Path(f"images/{number:05d}.zip"), folder)
    ]
    return pa.Table.from_pylist(rows, schema=_LOOKED)


def columns(intake: Intake, looked: pa.Table, usable: Mask) -> Columns:
    """What curation compares of the usable rows."""
    of_usable = usable[intake.image_row]
    number = intake.image_number[of_usable]
    keys = {name: values[usable] for name, values in intake.keys.items()}
    hashes, hashed = _hashes(looked["perceptual_hash"])
    return Columns(
        evaluation=intake.evaluation[usable],
        exact=mixed(keys["exact_key"], keys["source"]),
        text=keys["text_key"],
        options=keys["options_key"],
        gold=keys["gold_key"],
        figure=keys["figure"],
        article=keys["article"],
        image_row=(np.cumsum(usable) - 1)[intake.image_row[of_usable]],
        image_source=_digest_keys(looked["source_digest"])[number],
        image_pixels=_digest_keys(looked["pixel_digest"])[number],
        hashes=hashes[number],
        hashed=hashed[number],
    )


def _digest_keys(digests: pa.ChunkedArray) -> Keys:
    """The first 64 bits of hexadecimal digests."""
    heads = (int(digest[:16], 16) if digest else 0 for digest in digests.to_pylist())
    return np.fromiter(heads, np.uint64, len(digests)).view(np.int64)


def _hashes(digits: pa.ChunkedArray) -> tuple[npt.NDArray[np.uint64], Mask]:
    return _digest_keys(digits).view(np.uint64), pc.not_equal(digits, "").to_numpy()


def usable_rows(intake: Intake, looked: pa.Table) -> Mask:
    """Parsed rows all of whose images can be used."""
    usable = np.ones(len(intake.draft_row), bool)
    unusable = pc.not_equal(looked["reason"], "").to_numpy()
    usable[intake.image_row[unusable[intake.image_number]]] = False
    return usable
