"""PMC-VQA's tables as they are released -> drafts: both schemas, and the dirt that is known of them.

Version 1 has `Answer` (the right option's text; `Anwser` in early revisions) and `Answer_label` (its letter); version 2
has `Answer` (its letter), `Caption` and `split`. The facts about both are in the data set's card
(RadGenome/PMC-VQA). A row whose letters contradict each other is mended only where one reading is left.
"""

import dataclasses
import functools
import posixpath
import re
from collections.abc import Iterator
from typing import Any

from infra.errors import InputError
from pipelines.questions.candidates import Draft, Origin, RejectedError, line
from pipelines.questions.sources import columns
from pipelines.records import LETTERS, Split

NAME = "PMC-VQA"
_LETTERS = LETTERS[:4]
_CHOICES = tuple(f"Choice {letter}" for letter in _LETTERS)
_NEEDED = ("Figure_path", "Question", *_CHOICES, "Answer")
_COLUMNS = (*_NEEDED, "Answer_label", "Caption", "split")
KNOWN = frozenset(columns.plain(name) for name in (*_COLUMNS, "Anwser"))
_CLOSING = dict(zip("'\"`‘“", "'\"`’”", strict=True))  # opening quote -> the one that ends what it begins
_QUOTES = "'\"`‘’“”"
_PREFIX = re.compile(rf"[{_QUOTES}\s]*([A-D])\s*[:：]\s*")
_DOTTED = re.compile(rf"[{_QUOTES}\s]*([A-D])[.)]\s*")
_MIN_PREFIXES = 3
_LABEL = re.compile(r"^\W*([A-D])\W*$", re.IGNORECASE)
_ARTICLE = re.compile(r"PMC\d+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """An option: the letter of its column, the one written before it, if any, and its text as it is and to compare."""

    column: str
    prefix: str | None
    text: str
    plain: str


def drafts(row: dict[str, Any], origin: Origin) -> Iterator[Draft]:
    """The one draft of a row; raises RejectedError with the reason, InputError when these are no columns of PMC-VQA."""
    cells = {name: _text(row[column]) for name, column in _columns(tuple(row)).items()}
    choices = _choices([line(cells[name]) for name in _CHOICES])
    gold = _gold(choices, cells)
    name = cells["Figure_path"].strip()
    stem = posixpath.splitext(posixpath.basename(name.replace("\\", "/")))[0]
    article = _ARTICLE.match(stem)
    yield origin.draft(
        split=origin.split or _split(cells, origin),
        images=[name],
        text=_unquoted(line(cells["Question"])),
        options=[choice.text for choice in choices],
        gold=gold.column,
        figure=line(stem).casefold(),
        article=article[0].upper() if article else "",
        caption=line(cells.get("Caption", "")),
    )


def check_columns(names: tuple[str, ...], *, split_given: bool) -> None:
    """Raises InputError when these are no columns of PMC-VQA."""
    _columns(names)


@functools.lru_cache(maxsize=8)
def _columns(names: tuple[str, ...]) -> dict[str, str]:
    """The columns by the names of this page -> by those of the table."""
    found = columns.named(names, (*_COLUMNS, "Anwser"))
    if "Anwser" in found:
        found.setdefault("Answer", found["Anwser"])
    if missing := [name for name in _NEEDED if name not in found]:
        raise InputError(f"A table of PMC-VQA has no column {missing[0]!r}; it has {columns.shown(names)}")
    return {name: found[name] for name in _COLUMNS if name in found}


def _text(value: Any) -> str:
    """A cell's text; in Parquet it may be null."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RejectedError("cell_is_no_text")
    return value


def _split(cells: dict[str, str], origin: Origin) -> str:
    """As version 2 says it; else as the file is called, lest a test in its name be trained on."""
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
    """The letter before each option. `A. niger` is a mould, and `C: 2 mm` may be a text: what begins so has letters
    before it only where most options have one, and dots only where all four follow one another."""
    dotted = [_DOTTED.match(cell) for cell in cells]
    if [match and match[1] for match in dotted] == list(_LETTERS):
        return dotted
    found = [_PREFIX.match(cell) for cell in cells]
    num_letters = len({match[1] for match in found if match})
    if 0 < num_letters < _MIN_PREFIXES and all(cells):
        raise RejectedError("option_letters_unclear")
    return found


def _unquoted(text: str) -> str:
    """Without the quotes that enclose all of it; a quote inside belongs to the text, as in 3' or Crohn's."""
    while len(text) > 1 and _CLOSING.get(text[0]) == text[-1] and not {text[0], text[-1]} & set(text[1:-1]):
        text = text[1:-1].strip()
    return text


def _gold(choices: list[_Choice], cells: dict[str, str]) -> _Choice:
    """The right option, where all that the row says of it leaves one reading."""
    if not all(choice.text for choice in choices):
        raise RejectedError("option_missing")
    if len({choice.plain for choice in choices}) < len(choices):
        raise RejectedError("options_repeated")
    said = line(cells["Answer"])
    label = line(cells.get("Answer_label", "")).strip(_QUOTES)  # a lone quote says nothing
    named = _named(choices, said) if "Answer_label" in cells else None
    if named is None:
        return _by_letter(choices, [letter for letter in (said, label) if _plain(letter)])
    if label and named not in _lettered(choices, label):
        raise RejectedError("label_contradicts_answer")
    if not label and _lettered(choices, said) not in ([], [named]):
        raise RejectedError("letters_contradict_each_other")
    return named


def _by_letter(choices: list[_Choice], letters: list[str]) -> _Choice:
    """The option that all letters mean, by its column and by the letter before it alike: where these differ an option
    may be lost, and the right one with it."""
    meant = choices if letters else []
    for letter in letters:
        meant = _lettered(meant, letter)
    if not meant:
        raise RejectedError("answer_is_no_option")
    if len(meant) > 1 or meant[0].prefix not in {None, meant[0].column}:
        raise RejectedError("letters_contradict_each_other")
    return meant[0]


def _named(choices: list[_Choice], said: str) -> _Choice | None:
    """The option whose text the answer repeats, with its letter before it or without."""
    plain = _plain(said)
    named = [choice for choice in choices if choice.plain == plain]
    if not named and (match := _PREFIX.match(said)):
        rest = _plain(said[match.end() :])
        named = [choice for choice in _lettered(choices, match[1]) if choice.plain == rest]
    return named[0] if named else None


def _plain(text: str) -> str:
    """What two writings of an option share; signs stay, since they are all that tells `< 5 mm` from `> 5 mm`."""
    return text.casefold().lstrip(f" {_QUOTES}").rstrip(f" .,;{_QUOTES}")


def _lettered(choices: list[_Choice], label: str) -> list[_Choice]:
    """The options that a letter can mean: by column, and by the letter written before them."""
    match = _LABEL.match(label)
    return [choice for choice in choices if match and match[1].upper() in {choice.column, choice.prefix}]
