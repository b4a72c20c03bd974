"""`word_lists.toml` -> sets of words, and the numbers that a sentence counts with."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.digests import digest_json

_STATED: dict[str, Any] = tomllib.loads(Path(__file__).with_name("word_lists.toml").read_text(encoding="utf-8"))


def _words(name: str) -> frozenset[str]:
    return frozenset(_STATED[name].split())


COMMON = _words("common")
FOREIGN = _words("foreign") - COMMON
HOLLOW = _words("hollow") | COMMON
SEEN = _words("seen") - HOLLOW
CLASSES = _words("classes")
SUPERLATIVES = _words("superlatives")
DENIES = _words("denies")
SUPPOSES = _words("supposes")
ENDS_MENTION = _words("ends_mention")
NAMING = _words("naming")
GENERAL = re.compile(rf"\b(?:{'|'.join(_STATED['general'])})")
OPPOSITES: dict[str, frozenset[str]] = {
    word: frozenset(other for pair in _STATED["opposites"] if word in pair for other in pair if other != word)
    for word in {each for pair in _STATED["opposites"] for each in pair}
}
MORE = re.compile(r"(?<!\bno )\b(?:more|another|further|additional|plu|plus|remaining|other|others|least|than)\b")
_NEGATIVE = re.compile(rf"\W*(?:there (?:is|are) )?(?:{'|'.join(_STATED['negative'])})\b", re.IGNORECASE)
_LABELS, _UNITS, _NUMBERS = _words("labels"), _words("units"), _STATED["numbers"]
_MOST_DIGITS = 3  # of a number that counts
_JOINS = frozenset({"and", "to", ",", "or"})


def digest() -> str:
    """Digest of all lists."""
    return digest_json(_STATED)


def is_negative(option: str) -> bool:
    """Whether an option says that something is not there."""
    return bool(_NEGATIVE.match(option))


def counts(sentence: str) -> Iterator[tuple[int, int]]:
    """Places and values of the numbers that count something in a normalised sentence: no labels, no measures."""
    words = sentence.split()
    is_label = False
    for place, word in enumerate(words):
        number = _NUMBERS.get(
            word, int(word) if word.isdecimal() and len(word) <= _MOST_DIGITS and word.isascii() else None
        )
        if number is None:
            is_label = word in _LABELS or (is_label and word in _JOINS)
            continue
        if is_label and word.isdecimal():
            continue
        is_label = False
        if place + 1 == len(words) or words[place + 1] not in _UNITS:
            yield place, number


def number_in(option: str) -> int | None:
    """The one number that a normalised option counts with, if there is exactly one."""
    found = list(counts(option))
    return found[0][1] if len(found) == 1 else None
