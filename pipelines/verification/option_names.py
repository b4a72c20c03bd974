"""A question's options -> what they are called in a text: whole, without brackets, short, or by the word that only one
of them has."""

import dataclasses
import functools
import itertools
import re
from collections.abc import Mapping

from pipelines.records import LETTERS
from pipelines.verification import word_lists

_TOKEN = re.compile(r"\w+(?:[.,]\d+)?|[.;:?!,]")
_PLURAL = re.compile(r"s (?<=[^\W\d_]{4}s )(?<!ss )")
_LONG_WORD = 4  # letters of a word that may stand for its option alone


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What a question's options are called. names: name -> letter. opposites: letter -> each word of an otherwise
    similar option that has its opposite in this one, and that opposite. numbers: letter -> what it counts, where all
    options are counts. asked: the question, normalised."""

    names: dict[str, str]
    opposites: dict[str, list[tuple[str, frozenset[str]]]]
    numbers: dict[str, int]
    asked: str


def normalised(text: str) -> str:
    """Words and marks of a text in lower case, singular, with a space around each."""
    return _PLURAL.sub(" ", f" {' '.join(_TOKEN.findall(text.lower()))} ")


@functools.lru_cache(maxsize=64)
def read(text: str, options: tuple[str, ...]) -> Options:
    """What the options of a question with this text are called."""
    asked = normalised(text)
    lettered = dict(zip(LETTERS, options, strict=False))
    normal = {letter: normalised(option) for letter, option in lettered.items()}
    words = {letter: frozenset(each.split()) - word_lists.COMMON for letter, each in normal.items()}
    distinct = {
        letter: own.difference(*(words[other] for other in words if other != letter)) for letter, own in words.items()
    }
    names: dict[str, str] = {}
    for letter, option in lettered.items():
        for name in _names_of(option, normal[letter], distinct[letter], words[letter]):
            # What two options are called, or what the question itself says, tells nothing.
            names[name] = "" if name in names or name in asked else letter
    counted = {letter: word_lists.number_in(each) for letter, each in normal.items()}
    is_count = len(set(counted.values())) == len(options) and None not in counted.values()
    numbers = {letter: number for letter, number in counted.items() if number is not None} if is_count else {}
    opposites = _opposites(words, asked)
    return Options({name: letter for name, letter in names.items() if letter}, opposites, numbers, asked)


def _opposites(words: Mapping[str, frozenset[str]], asked: str) -> dict[str, list[tuple[str, frozenset[str]]]]:
    """As in Options."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for gold, other in itertools.permutations(words, 2):
        for word in (words[other] - words[gold]) & word_lists.OPPOSITES.keys():
            opposite = word_lists.OPPOSITES[word] & (words[gold] - words[other])
            own, others = words[gold] - opposite, words[other] - {word}
            if opposite and f" {word} " not in asked and (own & others or not (own or others)):
                found.setdefault(gold, []).append((word, opposite))
    return found


_BRACKETED = re.compile(r"(.{2,}?) ?\((?:([\w-]{2,12})|[^()]{1,40})\)")
_LEADING = re.compile(r"^ (?:the|a|an|there is|there are|it is|presence of|it) ")


def _names_of(option: str, normal: str, distinct: frozenset[str], words: frozenset[str]) -> set[str]:
    names = {normal.rstrip(" .") + " ", _LEADING.sub(" ", normal)}
    if both := _BRACKETED.fullmatch(option.strip()):
        names |= {normalised(part) for part in both.groups() if part}
    own = distinct - word_lists.CLASSES
    # "Untreated group" is known by its one word; "untreated, severe" is not.
    if len(own) == 1 and not (words - distinct - word_lists.CLASSES) and len(next(iter(own))) >= _LONG_WORD:
        names.add(f" {next(iter(own))} ")
    return {name for name in names if len(name.strip()) > 1 and name.strip() not in ("yes", "no")}
