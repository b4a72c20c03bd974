"""`phrases.toml` -> patterns that search a text for what announces, denies, leaves open or refuses an answer."""

import functools
import re
import tomllib
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("phrases.toml")
_TABLES: dict[str, dict[str, Any]] = tomllib.loads(_FILE.read_text())
_WORDS: dict[str, list[str]] = _TABLES.pop("words")
_WITHOUT_BLANKS = frozenset({"zh", "ja", "ko"})  # languages in which a word has no border
ALL = tuple(_TABLES)
_SCRIPTS = {language: re.compile(f"[{kinds['script']}]") for language, kinds in _TABLES.items() if "script" in kinds}
_NEEDED = [(language, kinds["needed"]) for language, kinds in _TABLES.items() if "needed" in kinds]


def languages(text: str) -> tuple[str, ...]:
    """The languages whose phrases a text may hold: English, and others by a few of their words or their script.

    text: in small letters, as all patterns are: that makes a search several times as fast as one that ignores case.
    """
    bordered = f" {text} ".replace("\n", " ")
    found = [language for language, words in _NEEDED if any(word in bordered for word in words)]
    if not text.isascii():
        found += [language for language, script in _SCRIPTS.items() if script.search(text)]
    return ("en", *found)


@functools.lru_cache(maxsize=1024)
def either(kind: str, spoken: tuple[str, ...]) -> str:
    """One pattern for all entries of a kind in these languages; it finds nothing where they have none."""
    found = []
    for language in spoken:
        if entries := _TABLES[language].get(kind):
            either = "|".join(map(_expanded, entries))
            before, after = ("", "") if language in _WITHOUT_BLANKS else (r"(?<![^\W_])", r"(?![^\W_])")
            found.append(f"{before}(?:{either}){after}")
    return f"(?:{'|'.join(found) or '(?!)'})"


def _expanded(entry: str) -> str:
    return re.sub(r"@(\w+)", lambda name: "|".join(_WORDS[name[1]]), entry)


@functools.lru_cache(maxsize=1024)
def compiled(kind: str, spoken: tuple[str, ...]) -> re.Pattern[str]:
    """What finds a phrase of a kind."""
    return re.compile(either(kind, spoken))


def search(kind: str, text: str) -> re.Match[str] | None:
    """The first phrase of a kind in a text."""
    lowered = text.lower()
    return compiled(kind, languages(lowered)).search(lowered)
