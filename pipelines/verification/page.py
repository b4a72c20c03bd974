"""Sealed verdicts -> `verdicts.html`: some of each reason and rule, with their images, for a person's eye.

python -m pipelines.verification.page RUN_DIR [--output FILE] [--count N]

One file with nothing to fetch. Which verdicts are shown depends on their ids alone, so that the page is the same
whenever it is made of the same verdicts.
"""

import argparse
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pyarrow.compute as pc
import pyarrow.parquet as pq

from infra import manifest
from pipelines.images import decoding, sealed
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends.chat import data_url
from pipelines.records import LETTERS, Question, Verdict, tables

COUNT = 200
_THUMBNAIL_PIXELS = 220 * 220
_MOST_IMAGES = 4  # of a question
_MOST_CHARACTERS = 4000  # of a text
_QUALITY = 80
_TEMPLATE = Path(__file__).with_name("page.html.j2")


def chosen(ids: Iterable[str], groups: Iterable[str], count: int) -> list[int]:
    """The places of at most `count` rows: of each group in turn the one with the next lowest id, so that a rare group
    is shown as fully as a frequent one."""
    places: dict[str, list[tuple[str, int]]] = {}
    for place, (row_id, group) in enumerate(zip(ids, groups, strict=True)):
        places.setdefault(group, []).append((row_id, place))
    turns = [(turn, group, place) for group, own in places.items() for turn, (_, place) in enumerate(sorted(own))]
    return [place for _, _, place in sorted(turns)[:count]]


def page(questions: Path, verdicts: Path, count: int = COUNT) -> str:
    """The page about the verdicts of an artifact. questions: the artifact that they are about. All text is escaped."""
    ids, reasons, rules = tables.columns(verdicts, Verdict, ["rationale_id", "reason", "rule"])
    groups = [f"{reason}\n{rule or ''}" for reason, rule in zip(reasons, rules, strict=True)]
    places = set(chosen(ids, groups, count))
    shown = _verdicts(verdicts, places)
    asked = _questions(questions, {verdict.question_id for verdict in shown})
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for verdict in sorted(shown, key=lambda each: (each.reason, each.rule or "")):
        by_reason.setdefault(verdict.reason, []).append(_shown(verdict, asked, questions))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    totals = {reason: reasons.count(reason) for reason in by_reason}
    return template.render(by_reason=by_reason, totals=totals, num_verdicts=len(ids))


def _verdicts(folder: Path, places: set[int]) -> list[Verdict]:
    """The verdicts at these places of their table; a batch at a time is in memory."""
    found: list[Verdict] = []
    start = 0
    for batch in pq.ParquetFile(folder / f"{Verdict.stem}.parquet").iter_batches():
        own = [place - start for place in sorted(places) if start <= place < start + batch.num_rows]
        found += map(Verdict.from_dict, batch.take(own).to_pylist())
        start += batch.num_rows
    return found


def _questions(folder: Path, ids: set[str]) -> dict[str, Question]:
    where = pc.field("id").isin(sorted(ids))
    table = pq.read_table(folder / f"{Question.stem}.parquet", schema=Question.schema(), filters=where)
    return {row["id"]: Question.from_dict(row) for row in table.to_pylist()}


def _shown(verdict: Verdict, asked: Mapping[str, Question], folder: Path) -> dict[str, Any]:
    question = asked[verdict.question_id]
    return {
        "verdict": verdict,
        "text": verdict.text[:_MOST_CHARACTERS],
        "is_cut": len(verdict.text) > _MOST_CHARACTERS,
        "question": question,
        "lettered": list(zip(LETTERS, question.options, strict=False)),
        "images": [_thumbnail(image) for image in sealed.of(folder, question)[:_MOST_IMAGES]],
        "num_left_out": max(0, len(question.images) - _MOST_IMAGES),
    }


def _thumbnail(image: SealedImage) -> str | None:
    """A small JPEG as a URL that carries it; None for an image that cannot be read."""
    try:
        small = decoding.within(image.decode(), _THUMBNAIL_PIXELS)
    except UnreadableImageError:
        return None
    written = io.BytesIO()
    small.save(written, "JPEG", quality=_QUALITY)
    return data_url(written.getvalue(), "jpeg")


def main(arguments: list[str] | None = None) -> None:
    """Write the page of a run, and print where it is."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.verification.page", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="the folder of a run with sealed verdicts")
    parser.add_argument("--output", type=Path, help="the file to write; by default RUN_DIR/verdicts.html")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many verdicts are shown, by default {COUNT}")
    given = parser.parse_args(arguments)
    questions, verdicts = (manifest.find(given.run_dir / name) for name in ("questions", "verdicts"))
    if questions is None or verdicts is None:
        parser.error(f"{given.run_dir} has no sealed questions and verdicts: run the stage verify first")
    output = given.output or given.run_dir / "verdicts.html"
    output.write_text(page(questions.path, verdicts.path, given.count), encoding="utf-8")
    print(output)


if __name__ == "__main__":
    main()
