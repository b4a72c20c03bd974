"""Sources -> candidates with their decoded images, at any size: rows are streamed, and each image is decoded once.

Only a few 64-bit keys of each row are held in memory; its text waits in a scratch file until its status is known.
"""

import dataclasses
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from pipelines.images.sandbox import ImageSandbox, Request
from pipelines.questions.candidates import QUARANTINED, Candidate, key
from pipelines.questions.figure_ids import article_id, figure_id
from pipelines.questions.image_locations import ImageFinder
from pipelines.questions.row_keys import Keys, Mask, RowKeys, mixed
from pipelines.questions.sources import source as reading
from pipelines.questions.sources.source import Source
from pipelines.records import Split, StoredImage

ROWS_AT_ONCE = 1024
IMAGES_PER_SHARD = 1024
LARGE_BYTES = 16 << 20  # of tables; smaller ones are read sooner than workers of a cluster would start
_CANDIDATES = "candidates.parquet"
BINARY = 2  # options
_SPELT: dict[str, Callable[[str], str]] = {"source": str, "figure": figure_id, "article": article_id}
_KEYS = ("exact_key", "text_key", "options_key", "gold_key")
_DECODED = pa.schema([*StoredImage.schema(), pa.field("reason", pa.string(), nullable=False)])
_UNUSABLE = StoredImage(
    path="", name="", crop="", source_digest="", digest="", pixel_digest="", perceptual_hash=b"", width=0, height=0,
    changes=(),
).as_dict()  # fmt: skip
T = TypeVar("T")
Numbers = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class IngestedRows:
    """All rows of the sources, and the images that they show. A row that is a question as far as its table tells is
    called parsed here.

    candidates: the Parquet file of all rows, in order. num_rows: all rows. evaluation: for each parsed row, whether it
    is for examination. keys: of each parsed row, by name. image_row, image_number: for each use of an image, the index
    of its row among the parsed ones, and the image's index in `requests`. requests: every image once; crops of one file
    are images of their own.
    """

    candidates: Path
    num_rows: int
    evaluation: Mask
    keys: dict[str, Keys]
    image_row: Numbers
    image_number: Numbers
    requests: list[Request]


def is_large(sources: Sequence[Source]) -> bool:
    """Whether there is so much to read that starting a cluster is worth its time."""
    return sum(storage.size(source.table) for source in sources) > LARGE_BYTES


def blocks(source: Source, limit: int | None) -> Iterator[pa.Table]:
    """A source's candidates with the locations of their images, as tables of some rows each.

    limit: rows of each split at most; None for all.
    """
    finder = ImageFinder(source)
    candidates = (_located(candidate, finder) for candidate in reading.candidates(source, limit))
    for batch in batched(candidates, ROWS_AT_ONCE):
        yield Candidate.table(batch)


def _located(candidate: Candidate, finder: ImageFinder) -> Candidate:
    locations = []
    for image in () if candidate.status else candidate.images:
        try:
            locations.append(finder.find(image))
        except UnreadableImageError as error:
            return dataclasses.replace(candidate, status=QUARANTINED, reason=str(error), images=(image,))
    return dataclasses.replace(candidate, locations=tuple(locations))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of `size`, the last of which may be shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


class _Collector:
    """Takes blocks of candidates as they come, and collects what IngestedRows holds of them."""

    def __init__(self) -> None:
        self.num_rows = self._num_parsed = 0
        self._columns: list[dict[str, Any]] = []
        self._image_row, self._image_number = array("q"), array("q")
        self._requests: dict[Request, int] = {}

    def add(self, block: pa.Table) -> None:
        """Take the next rows."""
        parsed = pc.equal(block["status"], "")
        rows = block.filter(parsed)
        self._columns.append(
            {name: rows[name].to_numpy() for name in _KEYS}
            | {name: _keys(rows[name], spelt) for name, spelt in _SPELT.items()}
            | {"num_options": pc.list_value_length(rows["options"]).to_numpy()}
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

    def collected(self, candidates: Path) -> IngestedRows:
        """All rows that were added. candidates: the file that holds them."""
        self.add(Candidate.schema().empty_table())  # so that every column is there, even without any rows
        columns = {name: np.concatenate([block[name] for block in self._columns]) for name in self._columns[0]}
        return IngestedRows(
            candidates=candidates,
            num_rows=self.num_rows,
            evaluation=columns.pop("evaluation"),
            keys=columns,
            image_row=np.array(self._image_row, np.int64),
            image_number=np.array(self._image_number, np.int64),
            requests=list(self._requests),
        )


def _keys(texts: pa.ChunkedArray, spelt: Callable[[str], str]) -> Keys:
    return np.array([key(spelt(text)) if text else 0 for text in texts.to_pylist()], np.int64)


def read(sources: Sequence[Source], scratch: Path, limit: int | None, progress: Progress) -> IngestedRows:
    """Read every row of the sources, and find the images that they name.

    scratch: folder for the candidates' file. limit: rows of each split of a source at most; None for all. Raises
    InputError when a table or a zip of images cannot be read at all.
    """
    streams = [partial(blocks, source, limit) for source in sources]
    if is_large(sources):
        from pipelines.questions import distributed

        arriving = distributed.blocks(streams)
    else:
        arriving = (block for stream in streams for block in stream())
    collector = _Collector()
    candidates = scratch / _CANDIDATES
    with pq.ParquetWriter(candidates, Candidate.schema()) as writer:
        for arrived in arriving:
            block = arrived.select(Candidate.schema().names).cast(Candidate.schema())
            writer.write_table(block)
            collector.add(block)
            progress.count(collector.num_rows, "rows")
    return collector.collected(candidates)


def decode_images(rows: IngestedRows, folder: Path, max_pixels: int, progress: Progress, *, large: bool) -> pa.Table:
    """Decode every image once, and store those that can be used in zips (shards) below `folder`.

    max_pixels: of each stored image. large: whether the work is distributed over a cluster. Returns StoredImage's
    columns and `reason`, empty where the image can be used; one row for each request, in order.
    """
    shards = list(batched(rows.requests, IMAGES_PER_SHARD))
    (folder / "images").mkdir()
    if not shards:
        return _DECODED.empty_table()
    if large:
        from pipelines.questions import distributed

        streams = [partial(_decoded_alone, shard, number, folder, max_pixels) for number, shard in enumerate(shards)]
        return _joined(distributed.blocks(streams), len(rows.requests), progress)
    with ImageSandbox(max_pixels=max_pixels, workers=os.cpu_count() or 1) as sandbox:
        decoded = (_decoded(sandbox, shard, number, folder) for number, shard in enumerate(shards))
        return _joined(decoded, len(rows.requests), progress)


def _joined(decoded: Iterator[pa.Table], total: int, progress: Progress) -> pa.Table:
    blocks: list[pa.Table] = []
    done = unusable = 0
    progress(0, total, "images")
    for block in decoded:
        blocks.append(block.select(_DECODED.names).cast(_DECODED))
        done += block.num_rows
        unusable += pc.sum(pc.not_equal(block["reason"], "")).as_py()
        progress(done, total, "images", unusable=unusable)
    return pa.concat_tables(blocks)


def _decoded_alone(requests: list[Request], number: int, folder: Path, max_pixels: int) -> Iterator[pa.Table]:
    """Decode one shard in a task of a cluster, which has one CPU and so one child process."""
    with ImageSandbox(max_pixels=max_pixels, workers=1) as sandbox:
        yield _decoded(sandbox, requests, number, folder)


def _decoded(sandbox: ImageSandbox, requests: list[Request], number: int, folder: Path) -> pa.Table:
    rows = [
        _UNUSABLE | {"reason": outcome} if isinstance(outcome, str) else outcome.as_dict() | {"reason": ""}
        for outcome in sandbox.store(requests, Path(f"images/{number:05d}.zip"), folder)
    ]
    return pa.Table.from_pylist(rows, schema=_DECODED)


def keys_of_usable(rows: IngestedRows, decoded: pa.Table, usable: Mask) -> RowKeys:
    """What curation compares of the usable rows. decoded: see `decode_images`. usable: see `usable_rows`."""
    of_usable = usable[rows.image_row]
    number = rows.image_number[of_usable]
    keys = {name: values[usable] for name, values in rows.keys.items()}
    return RowKeys(
        evaluation=rows.evaluation[usable],
        exact=mixed(keys["exact_key"], keys["source"]),
        text=keys["text_key"],
        options=keys["options_key"],
        gold=keys["gold_key"],
        binary=keys["num_options"] == BINARY,
        figure=keys["figure"],
        article=keys["article"],
        image_row=(np.cumsum(usable) - 1)[rows.image_row[of_usable]],
        image_source=digest_keys(decoded["source_digest"])[number],
        image_pixels=digest_keys(decoded["pixel_digest"])[number],
    )


def digest_keys(digests: pa.ChunkedArray) -> Keys:
    """The first 64 bits of hexadecimal digests."""
    heads = (int(digest[:16], 16) if digest else 0 for digest in digests.to_pylist())
    return np.fromiter(heads, np.uint64, len(digests)).view(np.int64)


def usable_rows(rows: IngestedRows, decoded: pa.Table) -> Mask:
    """For each parsed row, whether all of its images can be used."""
    usable = np.ones(len(rows.evaluation), bool)
    unusable = pc.not_equal(decoded["reason"], "").to_numpy()
    usable[rows.image_row[unusable[rows.image_number]]] = False
    return usable
