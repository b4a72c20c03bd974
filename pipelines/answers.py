"""Text -> letter or none: the only place where an answer is read.

Strict on purpose: an answer that has to be guessed is no answer, it is counted as unscored and scored as wrong.
"""

import re

from pipelines.records import LETTERS

_FINAL_LINE = re.compile(r"\banswer(?:\s+is)?\b\s*:?\s*(?P<said>[^\n]*)", re.IGNORECASE)
_PARENTHESISED = re.compile(r"\(([A-Z])\)")
_LEADING = re.compile(r"^\W*([A-Z])(?=$|[.):,*])")
_LONE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?=$|[.):,;*]|\s+(?:and|or)\b)")


def read_letter(text: str, options: tuple[str, ...]) -> str | None:
    """The option's letter that a text settles on, or None.

    Reads, in this order: the last line `Answer: option (X)`; a letter alone; the text of exactly one option, word for
    word. A letter that is not among the options, or that contradicts the option named beside it, is no answer.
    """
    found = list(_FINAL_LINE.finditer(text))
    said = found[-1]["said"].strip() if found else text.strip()
    letters = set(LETTERS[: len(options)])
    named = _named_options(said, options)
    letter = _stated_letter(said, bare=not found)
    if letter is None:
        return next(iter(named)) if len(named) == 1 else None
    if letter not in letters or (named and letter not in named):
        return None
    return letter


def without_answer(text: str) -> str:
    """The reasoning in a text: everything before its final answer's line."""
    found = list(_FINAL_LINE.finditer(text))
    return text[: found[-1].start()].strip() if found else text.strip()


def _stated_letter(said: str, bare: bool) -> str | None:
    """The one letter that stands in brackets, or at the start with nothing but its mark behind it; two are none."""
    parenthesised = set(_PARENTHESISED.findall(said))
    if parenthesised:
        return parenthesised.pop() if len(parenthesised) == 1 else None
    leading = _LEADING.match(said)
    # Without the final line's `Answer:`, a capital that starts a sentence ("A smooth ...") is not an answer.
    if leading is None or (bare and len(said.strip(" .:()*")) > 1):
        return None
    others = set(_LONE_LETTER.findall(said)) - {leading[1]}
    return None if others else leading[1]


def _named_options(said: str, options: tuple[str, ...]) -> set[str]:
    """Letters of the options whose text stands in `said` as whole words; longer options hide the ones inside them."""
    remaining, named = said.casefold(), set()
    for letter, option in sorted(zip(LETTERS, options, strict=False), key=lambda pair: -len(pair[1])):
        pattern = rf"(?<!\w){re.escape(option.casefold().strip())}(?!\w)"
        if option.strip() and re.search(pattern, remaining):
            named.add(letter)
            remaining = re.sub(pattern, " ", remaining)
    return named
