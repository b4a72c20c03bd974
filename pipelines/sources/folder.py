"""A user's own table -> drafts: one question a row, in JSONL, CSV or Parquet.

`image` (or `images`, a list), `question`, `options` (a list; in CSV as JSON, or columns `option_A`, `option_B`, ...),
`answer` (a letter), `split` (train, validation or test); and optionally `stratum`, `caption`, `figure`, `article`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipelines.records import LETTERS
from pipelines.sources.drafts import Draft, Origin, RejectedError, line, lines

NAME = "own"
_OPTION = re.compile(r"option_([A-Z])", re.IGNORECASE)


def drafts(row: dict[str, Any], origin: Origin) -> Iterator[Draft]:
    """The one draft of a row; raises RejectedError with the reason."""
    yield origin.draft(
        split=origin.split or line(_text(row, "split", required=True)).lower(),
        images=_images(row),
        text=lines(_text(row, "question", required=True)),
        options=_options(row),
        gold=line(_text(row, "answer", required=True)).upper(),
        **{name: line(_text(row, name)) for name in ("stratum", "caption", "figure", "article")},
    )


def _text(row: dict[str, Any], name: str, required: bool = False) -> str:
    value = row.get(name)
    if value is None and not required:
        return ""
    if not isinstance(value, str):
        raise RejectedError(f"{name}_missing" if value is None else f"{name}_is_no_text")
    if required and not value.strip():
        raise RejectedError(f"{name}_missing")
    return value


def _images(row: dict[str, Any]) -> list[str]:
    if row.get("images") in (None, "", []):
        return [_text(row, "image", required=True).strip()]
    return _list(row["images"], "images")


def _options(row: dict[str, Any]) -> list[str]:
    if row.get("options") not in (None, "", []):
        return [line(option) for option in _list(row["options"], "options")]
    columns = [(match[1].upper(), value) for name, value in row.items() if (match := _OPTION.fullmatch(name.strip()))]
    by_letter = {letter: "" if value is None else value for letter, value in columns}
    if len(by_letter) < len(columns):
        raise RejectedError("options_repeated")
    if not all(isinstance(value, str) for value in by_letter.values()):
        raise RejectedError("option_is_no_text")
    texts = [line(by_letter[letter]) for letter in sorted(by_letter)]
    while texts and not texts[-1]:  # a question with fewer options than the table has columns
        texts.pop()
    if not texts:
        raise RejectedError("options_missing")
    if not by_letter.keys() >= set(LETTERS[: len(texts)]):
        raise RejectedError("option_letters_have_gaps")
    return texts


def _list(value: Any, name: str) -> list[str]:
    """A list of texts, or its JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise RejectedError(f"{name}_are_no_list") from error
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RejectedError(f"{name}_are_no_list")
    return value
