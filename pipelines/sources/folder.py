"""A folder as a user brings it -> questions, or for each row the reason why not.

The folder holds `questions.jsonl`, one question a line, and the images that it names:
`{"image": "images/1.png", "question": "...", "options": ["...", "..."], "answer": "B", "split": "train"}`, with an
optional
`stratum` that the report keeps apart.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.digests import digest_bytes, digest_json
from infra.errors import InputError
from pipelines import images
from pipelines.records import LETTERS, Question, Split

TABLE = "questions.jsonl"
_MIN_OPTIONS = 2


class RejectedError(Exception):
    """A row that gives no question; the message is the reason."""


def rows(folder: Path) -> Iterator[str]:
    """The table's lines; raises InputError when there is no table."""
    table = folder / TABLE
    if not table.is_file():
        raise InputError(f"{table} is not there. Write one question a line: image, question, options, answer, split.")
    with table.open(encoding="utf-8", errors="replace") as lines:
        yield from (line for line in lines if line.strip())


def question(line: str, folder: Path, source: str) -> tuple[Question, bytes]:
    """The question on a line and its image's bytes; raises RejectedError with the reason, images.UnreadableImageError
    likewise."""
    row = _fields(line)
    options = tuple(row["options"])
    if not _MIN_OPTIONS <= len(options) <= len(LETTERS) or len(set(options)) < len(options):
        raise RejectedError("options_too_few_or_repeated")
    if row["answer"] not in tuple(LETTERS[: len(options)]):
        raise RejectedError("answer_is_no_option")
    if row["split"] not in set(Split):
        raise RejectedError("unknown_split")
    data = _image_bytes(folder, row["image"])
    images.decode(data)
    digest = digest_bytes(data)
    identity = {"source": source, "image": digest, "text": row["question"], "options": options}
    made = Question(
        id=digest_json(identity)[:16],
        source=source,
        split=row["split"],
        stratum=row.get("stratum", ""),
        image=f"images/{digest[:2]}/{digest}{images.suffix(data)}",
        image_digest=digest,
        text=row["question"],
        options=options,
        gold=row["answer"],
    )
    return made, data


def _fields(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        line.encode(), json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair fits in no table
    except (ValueError, RecursionError) as error:
        raise RejectedError("line_is_no_json") from error
    if not isinstance(row, dict):
        raise RejectedError("line_is_no_json")
    for name in ("image", "question", "answer", "split"):
        if not isinstance(row.get(name), str) or not row[name]:
            raise RejectedError(f"{name}_missing")
    if not isinstance(row.get("options"), list) or not all(isinstance(o, str) and o.strip() for o in row["options"]):
        raise RejectedError("options_missing")
    if not isinstance(row.get("stratum", ""), str):
        raise RejectedError("stratum_is_no_text")
    return row


def _image_bytes(folder: Path, name: str) -> bytes:
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # no name for a file, or links in a circle
        raise images.UnreadableImageError("missing_image") from error
    if not path.is_relative_to(folder.resolve()):
        raise RejectedError("image_outside_folder")
    return images.read_bytes(path)
