"""PMC-VQA's tables as they are released -> drafts: both schemas, and the dirt that is known of them.

Version 1 has `Answer` (the right option's text; `Anwser` in early revisions) and `Answer_label` (its letter); version 2
has `Answer` (its letter), `Caption` and `split`. The facts about both are in the data set's card
(RadGenome/PMC-VQA). A row whose letters contradict each other is mended only where one reading is left.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from infra.errors import InputError
from pipelines.records import LETTERS, Split
from pipelines.sources.drafts import Draft, Origin, RejectedError, line

NAME = "PMC-VQA"
_LETTERS = LETTERS[:4]
_CHOICES = tuple(f"Choice {letter}" for letter in _LETTERS)
_QUOTES = "'\"`‘’“”"
_PREFIX = re.compile(rf"^[{_QUOTES}\s]*([A-D])\s*[:：]\s*")
_DOTTED = re.compile(rf"^[{_QUOTES}\s]*([A-D])[.)]\s*")
_LABEL = re.compile(r"^\W*([A-D])\W*$", re.IGNORECASE)
_ARTICLE = re.compile(r"^(PMC\d+)", re.IGNORECASE)
_COLUMNS = ("Figure_path", "Question", *_CHOICES)


@dataclasses.dataclass(frozen=True, slots=True)
class _Choice:
    """An option: the letter of its column, the one written before it, if any, and its text."""

    column: str
    prefix: str | None
    text: str

    def letters(self) -> set[str]:
        return {self.column, self.prefix or self.column}


def drafts(row: dict[str, Any], origin: Origin) -> Iterator[Draft]:
    """The one draft of a row; raises RejectedError with the reason, InputError when these are no columns of PMC-VQA."""
    cells = _cells(row)
    choices = _choices([cells[name] for name in _CHOICES])
    gold = _gold(choices, cells)
    name = cells["Figure_path"].strip()
    stem = PurePosixPath(name.replace("\\", "/")).stem
    article = _ARTICLE.match(stem)
    yield origin.draft(
        split=origin.split or _split(cells, origin),
        images=[name],
        text=_unquoted(line(cells["Question"])),
        options=[choice.text for choice in choices],
        gold=gold.column,
        figure=line(stem).casefold(),
        article=article[1].upper() if article else "",
        caption=line(cells.get("Caption", "")),
    )


def _cells(row: dict[str, Any]) -> dict[str, str]:
    """The row's cells by the names of this page; in Parquet they may be null."""
    cells = {name.strip(): "" if value is None else value for name, value in row.items()}
    if "Anwser" in cells:
        cells.setdefault("Answer", cells.pop("Anwser"))
    if missing := [name for name in (*_COLUMNS, "Answer") if name not in cells]:
        raise InputError(f"A table of PMC-VQA has no column {missing[0]!r}; it has {', '.join(cells)[:300]}")
    return {name: value if isinstance(value, str) else str(value) for name, value in cells.items()}


def _split(cells: dict[str, str], origin: Origin) -> str:
    """As version 2 says it; else as the file is called: what does not call itself a test is for training."""
    said = line(cells.get("split", "")).casefold()
    return said if said in set(Split) else Split.TEST if origin.file.startswith("test") else Split.TRAIN


def _choices(raw: list[str]) -> list[_Choice]:
    cells = [line(text) for text in raw]
    dotted = [_DOTTED.match(cell) for cell in cells]
    # `A. niger` is a mould: a dot marks letters only where all four follow one another.
    pattern = _DOTTED if [match and match[1] for match in dotted] == list(_LETTERS) else _PREFIX
    found = [pattern.match(cell) for cell in cells]
    texts = [_unquoted(cell[match.end() :] if match else cell) for cell, match in zip(cells, found, strict=True)]
    opening = cells[0][:1]
    if opening and opening in _QUOTES and texts[-1].endswith(opening):  # one pair of quotes around all four options
        texts = [texts[0].removeprefix(opening).lstrip(), *texts[1:-1], texts[-1][:-1].rstrip()]
    return [
        _Choice(letter, match[1] if match else None, text)
        for letter, match, text in zip(_LETTERS, found, texts, strict=True)
    ]


def _unquoted(text: str) -> str:
    """Without the quotes that enclose all of it; a quote inside belongs to the text, as in 3' or Crohn's."""
    while len(text) > 1 and text[0] in "'\"`" and text[0] == text[-1] and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return text.removeprefix("“").removesuffix("”").strip() if text[:1] == "“" and text[-1:] == "”" else text


def _gold(choices: list[_Choice], cells: dict[str, str]) -> _Choice:
    """The right option, where all that the row says of it leaves one reading."""
    if not all(choice.text for choice in choices):
        raise RejectedError("option_missing")
    if len({_plain(choice.text) for choice in choices}) < len(choices):
        raise RejectedError("options_repeated")
    said = line(cells["Answer"])
    if "Answer_label" not in cells:
        return _only(_lettered(choices, said))
    label = line(cells["Answer_label"])
    named = _named(choices, said)
    if named is None:
        if said and not _lettered(choices, said):
            raise RejectedError("answer_is_no_option")
        by_label = _lettered(choices, label)
        return _only([choice for choice in by_label if not said or choice in _lettered(choices, said)])
    if label.strip(_QUOTES) and named not in _lettered(choices, label):
        raise RejectedError("label_contradicts_answer")
    return named


def _only(choices: list[_Choice]) -> _Choice:
    if len(choices) > 1:
        raise RejectedError("letters_contradict_each_other")
    if not choices:
        raise RejectedError("answer_is_no_option")
    return choices[0]


def _named(choices: list[_Choice], said: str) -> _Choice | None:
    """The option whose text the answer repeats."""
    match = _PREFIX.match(said)
    texts = {_plain(said), _plain(_unquoted(said[match.end() :])) if match else _plain(_unquoted(said))}
    named = [choice for choice in choices if _plain(choice.text) in texts]
    return named[0] if len(named) == 1 else None


def _plain(text: str) -> str:
    """What two writings of an option share; signs stay, since they are all that tells `< 5 mm` from `> 5 mm`."""
    return text.casefold().strip(f" .,;{_QUOTES}")


def _lettered(choices: list[_Choice], label: str) -> list[_Choice]:
    """The options that a letter can mean: by column, and by the letter written before them."""
    match = _LABEL.match(label)
    return [choice for choice in choices if match and match[1].upper() in choice.letters()]
