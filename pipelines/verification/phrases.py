"""`phrases.toml` -> the rules of phrases, compiled, and the search for one that a text breaks."""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from infra.digests import digest_json

WINDOW = 32  # characters before a mention of an image, or before a letter, that a rule's `before` reads
_PATTERNS = ("pattern", "before", "not_before", "after", "unless", "asked")
_FILE = Path(__file__).with_name("phrases.toml")
_SENTENCE = re.compile(r"(?<=[.!?]) ")
_PLAIN = str.maketrans({"’": "'", "（": "(", "）": ")", "：": ":"} | dict.fromkeys('*_`"“”'))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """An entry of `phrases.toml`, which says what its fields mean; patterns are as they are compiled."""

    id: str
    check: str
    example: str
    but_not: Sequence[str] = ()
    pattern: str = ""
    before: str = ""
    not_before: str = ""
    after: str = ""
    words: Sequence[str] = ()
    unless: str = ""
    asked: str = ""
    hinted: bool = False
    own_letters: bool = False


class WholeText:
    """A rule that reads a sentence."""

    def __init__(self, rule: Rule, spared: Sequence[str] = ()) -> None:
        self.rule = rule
        self._search = re.compile(rule.pattern).search
        self._spared = re.compile("|".join(spared)) if spared else None

    def finds(self, sentence: str, text: str, asked: str = "") -> bool:
        """Whether a sentence of a plain text holds the rule's phrase, and nothing spares it. asked: the question with
        its options, plain, in lower case."""
        if not self._search(sentence):
            return False
        if self._spared and not self._search(self._spared.sub(" ", sentence)):
            return False
        rule = self.rule
        if rule.unless and (re.search(rule.unless, text) or re.search(rule.unless, asked)):
            return False
        return not (rule.asked and re.search(rule.asked, asked))


class Phrases:
    """All rules that read sentences, by the words of which a sentence must hold one."""

    def __init__(self, rules: Sequence[Rule], spared: dict[str, Sequence[str]]) -> None:
        self._rules = [WholeText(rule, spared.get(rule.check, ())) for rule in rules]
        self._places: dict[str, list[int]] = {}
        for place, rule in enumerate(rules):
            for word in rule.words:
                self._places.setdefault(word, []).append(place)

    def possible(self, sentences: Iterable[tuple[str, Iterable[str]]]) -> list[tuple[WholeText, str]]:
        """The rules that sentences can break, in the file's order, each with its sentence.

        sentences: plain, in lower case, each with its words. Most hold no word of any rule, and are never searched.
        """
        places = self._places
        found = sorted(
            (place, number, sentence)
            for number, (sentence, words) in enumerate(sentences)
            for place in {place for word in words if word in places for place in places[word]}
        )
        return [(self._rules[place], sentence) for place, _, sentence in found]


class AroundWord:
    """A rule that reads what stands before and behind a word."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._before = _ending_with(rule.before)
        self._not_before = _ending_with(rule.not_before)
        self._after = re.compile(rule.after).match

    def found(self, before: str, after: str) -> dict[str, str | None] | None:
        """The named groups of the rule's patterns where it applies. after: begins with the word itself."""
        behind = self._after(after)
        if behind is None or (self._not_before and self._not_before(before)):
            return None
        if self._before is None:
            return behind.groupdict()
        ahead = self._before(before)
        return ahead.groupdict() | behind.groupdict() if ahead else None


def _ending_with(pattern: str) -> Any:
    """The search for a pattern at a text's end; None for no pattern."""
    return re.compile(f"(?:{pattern})$").search if pattern else None


def plain(text: str) -> str:
    """A text with single spaces and without marks of emphasis, as all rules expect it."""
    return " ".join(text.translate(_PLAIN).split())


def sentences(text: str) -> list[str]:
    """The sentences of a plain text. It is cut a little too often, at abbreviations, which does no harm here."""
    return _SENTENCE.split(text)


def _expanded(pattern: str, words: dict[str, Sequence[str]]) -> str:
    """A pattern with each @name replaced by a choice among the words of that name."""
    return re.sub(r"@(\w+)", lambda name: f"(?:{'|'.join(_expanded(word, words) for word in words[name[1]])})", pattern)


def _words(stated: dict[str, Any]) -> dict[str, Sequence[str]]:
    words: dict[str, Sequence[str]] = stated["words"]
    return words | {name: list(table) for name, table in stated["numbers"].items()}


def _read(stated: dict[str, Any]) -> tuple[Rule, ...]:
    """The rules in the file's order. Raises TypeError or KeyError for a field or a name that does not exist."""
    words = _words(stated)
    for entry in stated["rule"]:
        entry |= {name: _expanded(entry[name], words) for name in _PATTERNS if name in entry}
    return tuple(Rule(**entry) for entry in stated["rule"])


_STATED = tomllib.loads(_FILE.read_text(encoding="utf-8"))
RULES = _read(_STATED)
PHRASES = Phrases([rule for rule in RULES if rule.pattern], _STATED["spared"])
_SEVERAL = {name: re.compile(_expanded(pattern, _words(_STATED))) for name, pattern in _STATED["several"].items()}
NUMBERS: dict[str, int] = {word: number for table in _STATED["numbers"].values() for word, number in table.items()}


def digest() -> str:
    """Digest of all that decides which rule is found; examples and comments do not."""
    rules = [dataclasses.asdict(dataclasses.replace(rule, example="", but_not=())) for rule in RULES]
    return digest_json([rules, NUMBERS, *(_STATED[name] for name in ("words", "spared", "several"))])


def shows_several(text: str, asked: str) -> bool:
    """Whether a question speaks of several images or panels, or a text says where in one file each of them lies.

    Both are plain and in lower case.
    """
    return bool(_SEVERAL["asked"].search(asked) or _SEVERAL["said"].search(text))


def around_word(check: str) -> tuple[AroundWord, ...]:
    """The rules of a check that read what stands around a word, in the file's order."""
    return tuple(AroundWord(rule) for rule in RULES if rule.check == check and not rule.pattern)
