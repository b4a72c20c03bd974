"""PMC-VQA's tables as they are released -> candidates: both schemas, and the errors that are known in them.

Version 1 has `Answer` (the right option's text; `Anwser` in early revisions) and `Answer_label` (its letter); version 2
has `Answer` (its letter), `Caption` and `split`. The facts about both are in the data set's card
(RadGenome/PMC-VQA). A row whose letters contradict each other is corrected only where one reading is left.
"""

import dataclasses
import functools
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from infra.errors import InputError
from pipelines.questions.candidates import Candidate, Origin, RejectedError, line
from pipelines.questions.figure_ids import article_of_figure
from pipelines.questions.table_readers import column_names
from pipelines.records import LETTERS, Split

NAME = "PMC-VQA"
_LETTERS = LETTERS[:4]
_CHOICES = tuple(f"Choice {letter}" for letter in _LETTERS)
_NEEDED = ("Figure_path", "Question", *_CHOICES, "Answer")
_COLUMNS = (*_NEEDED, "Answer_label", "Caption", "split")
KNOWN = frozenset(column_names.plain(name) for name in (*_COLUMNS, "Anwser"))
_CLOSING = dict(zip("'\"`‘“", "'\"`’”", strict=True))  # opening quote -> the one that ends what it begins
_QUOTES = "'\"`‘’“”"
_PREFIX = re.compile(rf"[{_QUOTES}\s]*([A-D])\s*[:：]\s*")
_DOTTED = re.compile(rf"[{_QUOTES}\s]*([A-D])[.)]\s*")
_MIN_PREFIXES = 3
_LABEL = re.compile(r"^\W*([A-D])\W*$", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """An option. column: the letter of its column. prefix: the letter written before the text, if any. plain: the text
    as it is compared."""

    column: str
    prefix: str | None
    text: str
    plain: str


def candidates(row: dict[str, Any], origin: Origin) -> Iterator[Candidate]:
    """The one candidate of a row.

    Raises RejectedError with the reason, and InputError when the columns are not those of PMC-VQA.
    """
    cells = {name: _text(row[column]) for name, column in _columns(tuple(row)).items()}
    choices = _choices([line(cells[name]) for name in _CHOICES])
    gold = _gold(choices, cells)
    name = cells["Figure_path"].strip()
    stem = posixpath.splitext(posixpath.basename(name.replace("\\", "/")))[0]
    yield origin.candidate(
        split=origin.split or _split(cells, origin),
        images=[name],
        text=_unquoted(line(cells["Question"])),
        options=[choice.text for choice in choices],
        gold=gold.column,
        figure=line(stem).casefold(),
        article=article_of_figure(line(stem)),
        caption=line(cells.get("Caption", "")),
    )


def check_columns(names: tuple[str, ...], *, split_given: bool) -> None:
    """Raise InputError when these are no columns of PMC-VQA."""
    _columns(names)


@functools.lru_cache(maxsize=8)
def _columns(names: tuple[str, ...]) -> dict[str, str]:
    """Names in _COLUMNS -> the names that the table gives them."""
    found = column_names.named(names, (*_COLUMNS, "Anwser"))
    if "Anwser" in found:
        found.setdefault("Answer", found["Anwser"])
    if missing := [name for name in _NEEDED if name not in found]:
        raise InputError(f"A table of PMC-VQA has no column {missing[0]!r}; it has {column_names.shown(names)}")
    return {name: found[name] for name in _COLUMNS if name in found}


def _text(value: Any) -> str:
    """A cell's text; in Parquet it may be null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RejectedError("cell_is_no_text")
    return value


def _split(cells: dict[str, str], origin: Origin) -> str:
    """The row's split in version 2; otherwise by the file's name, so that a file named as a test is not trained on."""
    if said := line(cells.get("split", "")).casefold():
        return said
    name = origin.file.casefold()
    return Split.TEST if "test" in name and not name.startswith("train") else Split.TRAIN


def _choices(cells: list[str]) -> list[_Choice]:
    found = _prefixes(cells)
    texts = [_unquoted(cell[match.end() :] if match else cell) for cell, match in zip(cells, found, strict=True)]
    closing = [_CLOSING.get(cell[:1], "") if match else "" for cell, match in zip(cells, found, strict=True)]
    if closing[0] and not closing[-1] and texts[-1].endswith(closing[0]):  # one pair of quotes around all options
        closing = ["", *closing[1:-1], closing[0]]
    texts = [text.removesuffix(quote).rstrip() for text, quote in zip(texts, closing, strict=True)]
    return [
        _Choice(letter, match[1] if match else None, text, _plain(text))
        for letter, match, text in zip(_LETTERS, found, texts, strict=True)
    ]


def _prefixes(cells: list[str]) -> list[re.Match[str] | None]:
    """The letter before each option, None where there is none.

    `A. niger` is a mould, and `C: 2 mm` may be a text. So a letter with a colon counts only where most options have
    one, and a letter with a dot only where all four do, in order.
    """
    dotted = [_DOTTED.match(cell) for cell in cells]
    if [match and match[1] for match in dotted] == list(_LETTERS):
        return dotted
    found = [_PREFIX.match(cell) for cell in cells]
    num_letters = len({match[1] for match in found if match})
    if 0 < num_letters < _MIN_PREFIXES and all(cells):
        raise RejectedError("option_letters_unclear")
    return found


def _unquoted(text: str) -> str:
    """The text without quotes that enclose all of it. A quote inside belongs to the text, as in 3' or Crohn's."""
    while len(text) > 1 and _CLOSING.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _gold(choices: list[_Choice], cells: dict[str, str]) -> _Choice:
    """The right option, where answer and label leave one reading; raises RejectedError otherwise."""
    if not all(choice.text for choice in choices):
        raise RejectedError("option_missing")
    if len({choice.plain for choice in choices}) < len(choices):
        raise RejectedError("options_repeated")
    said = line(cells["Answer"])
    label = line(cells.get("Answer_label", "")).strip(_QUOTES)  # a lone quote is no label
    named = _named(choices, said) if "Answer_label" in cells else None
    if named is None:
        return _by_letter(choices, [letter for letter in (said, label) if _plain(letter)])
    if label and named not in _lettered(choices, label):
        raise RejectedError("label_contradicts_answer")
    if not label and _lettered(choices, said) not in ([], [named]):
        raise RejectedError("letters_contradict_each_other")
    return named


def _by_letter(choices: list[_Choice], letters: list[str]) -> _Choice:
    """The option that all letters mean. The letter before it has to be that of its column: where they differ, an option
    may be missing, perhaps the right one."""
    meant = choices if letters else []
    for letter in letters:
        meant = _lettered(meant, letter)
    if not meant:
        raise RejectedError("answer_is_no_option")
    if len(meant) > 1 or meant[0].prefix not in {None, meant[0].column}:
        raise RejectedError("letters_contradict_each_other")
    return meant[0]


def _named(choices: list[_Choice], said: str) -> _Choice | None:
    """The option whose text the answer repeats, with or without its letter."""
    plain = _plain(said)
    named = [choice for choice in choices if choice.plain == plain]
    if not named and (match := _PREFIX.match(said)):
        rest = _plain(said[match.end() :])
        named = [choice for choice in _lettered(choices, match[1]) if choice.plain == rest]
    return named[0] if named else None


def _plain(text: str) -> str:
    """What two spellings of an option have in common. Signs stay, to distinguish `< 5 mm` from `> 5 mm`."""
    return text.casefold().lstrip(f" {_QUOTES}").rstrip(f" .,;{_QUOTES}")


def _lettered(choices: list[_Choice], label: str) -> list[_Choice]:
    """The options that a letter can mean, by their column or by the letter written before them."""
    match = _LABEL.match(label)
    return [choice for choice in choices if match and match[1].upper() in {choice.column, choice.prefix}]
