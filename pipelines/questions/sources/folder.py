"""A user's own table -> candidates: one question a row, as JSON, separated text or Parquet.

Its columns: `image` (or `images`, a list), `question`, `options` (see `options.py`), `answer` (a letter, the option's
text or its number; see `gold.py`), `split` (train, validation or test); optionally `stratum`, `caption`, `figure`,
`article`.
"""

import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from infra.errors import InputError
from pipelines.questions.candidates import Candidate, Origin, RejectedError, check_options, line, lines
from pipelines.questions.sources import gold, options
from pipelines.questions.table_readers import column_names
from pipelines.records import LETTERS

NAME = "own"
_LABELS = ("stratum", "caption", "figure", "article")
_COLUMNS = ("image", "images", "question", "options", "answer", "split", *_LABELS)
KNOWN = frozenset((*_COLUMNS, *(f"option_{letter}" for letter in LETTERS.lower())))
_INLINE = re.compile(r"\s*data:", re.IGNORECASE)


def candidates(row: dict[str, Any], origin: Origin, forms: gold.Forms | None = None) -> Iterator[Candidate]:
    """The one candidate of a row. forms: in which its table may write answers. Raises RejectedError with the reason."""
    cells = _cells(row)
    texts, read_as = options.read(row, cells.get("options"))
    check_options(texts)
    letter, how = gold.letter(_answer(cells), texts, forms)
    images, listed = _images(cells)
    yield origin.candidate(
        split=origin.split or line(_text(cells, "split", required=True)),
        images=images,
        text=lines(_text(cells, "question", required=True)),
        options=texts,
        gold=letter,
        read_as=[each for each in (*read_as, *listed, how) if each],
        **{name: line(options.number(cells.get(name)) or _text(cells, name)) for name in _LABELS},
    )


def answer_and_options(row: dict[str, Any]) -> tuple[str, Sequence[str]] | None:
    """A row's answer as it is written, and its options; None where it cannot be a question."""
    try:
        cells = _cells(row)
        texts, _ = options.read(row, cells.get("options"))
        check_options(texts)
        return _answer(cells), texts
    except RejectedError:
        return None


def check_columns(names: Iterable[str], *, split_given: bool) -> None:
    """Raise InputError with what is missing, where no row of these columns can be a question."""
    names = tuple(names)
    column_names.named(names, _COLUMNS)
    has = {column_names.plain(name) for name in names}
    needed: dict[str, Any] = {
        "image (or images)": has & {"image", "images"},
        "question": has & {"question"},
        "options (or option_A, option_B, ...)": has & {"options"} or list(filter(options.COLUMN.fullmatch, has)),
        "answer": has & {"answer"},
        "split": split_given or has & {"split"},
    }
    if missing := [name for name, found in needed.items() if not found]:
        raise InputError(
            f"no column {', '.join(missing)}. Its columns are: {column_names.shown(names)}. "
            f"A table of questions has: {', '.join(needed)}."
        )


@functools.lru_cache(maxsize=8)  # rows of a table have few sets of names, and a hostile table's are long
def _named(names: tuple[str, ...]) -> dict[str, str]:
    return column_names.named(names, _COLUMNS)


def _cells(row: dict[str, Any]) -> dict[str, Any]:
    """The cells by the names in _COLUMNS."""
    try:
        return {name: row[own] for name, own in _named(tuple(row)).items()}
    except InputError as error:
        raise RejectedError("columns_repeated") from error


def _text(cells: dict[str, Any], name: str, required: bool = False) -> str:
    value = cells.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise RejectedError(f"{name}_missing" if value is None else f"{name}_is_no_text")
    if required and not value.strip():
        raise RejectedError(f"{name}_missing")
    return value


def _answer(cells: dict[str, Any]) -> str:
    return line(options.number(cells.get("answer")) or _text(cells, "answer", required=True))


def _images(cells: dict[str, Any]) -> tuple[list[str], list[str]]:
    """The images' names, and how their list was read."""
    value = cells.get("images")
    read_as: list[str] = []
    if value in (None, "", []):
        image = cells.get("image")
        if isinstance(image, bytes) or (isinstance(image, dict) and "bytes" in image):
            raise RejectedError("image_is_inline")
        value = [_text(cells, "image", required=True).strip()]
    elif isinstance(value, str):
        value, read_as = options.parsed(value, "images")
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise RejectedError("images_are_no_list")
    if any(map(_INLINE.match, value)):
        raise RejectedError("image_is_inline")
    return value, read_as
