"""Text -> letter or none: the only place where an answer is read.

Strict on purpose: an answer that has to be guessed is no answer, it is counted as unscored and scored as wrong.
"""

import re

from pipelines.records import LETTERS

_KIND = r"(?:final|correct|right|best)"
_NOUN = r"(?:answer|option|choice)"
_IS = r"(?:is|would be|must be|should be)"
_DECORATION = " \t*_#>`~$✅✔️-"
_CLOSING = _DECORATION + ".\n"
# A line that begins so is the answer's, whatever is said about answers elsewhere.
_ANSWER_LINE = re.compile(
    rf"(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:{_KIND} ){{0,2}}{_NOUN}(?: and (?:its )?letter)?"
    rf"[*_ ]*(?::|\b {_IS}\b:?|$)(?P<said>.*)",
    re.IGNORECASE,
)
# Within a line, these words settle the matter too.
_ANSWER_IS = re.compile(rf"\b{_KIND} {_NOUN} {_IS}\b:?(?P<said>[^\n]*)", re.IGNORECASE)
_IS_ANSWER = re.compile(
    rf"(?P<said>(?<!\w)[A-Z]\b[*_]{{0,2}}\)?)(?: \([^()\n]{{0,200}}\))?[*_]{{0,2}} {_IS} the (?i:{_KIND} {_NOUN})"
)
_ANSWER_ANYHOW = re.compile(r"\banswer(?:\s+is)?\b\s*:?\s*(?P<said>[^\n]*)", re.IGNORECASE)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\(?:text|mathrm|mathbf)\{)?([^{}\n]*)\}{1,2}")
_EMPHASIS = re.compile(r"[*_`$]{1,3}")
_PARENTHESISED = re.compile(r"\(([A-Z])\)")
_LEADING = re.compile(r"^\W*([A-Z])(?=$|[.):,*])")
_LONE_LETTER = re.compile(r"(?<![\w'])([A-Z])(?=$|[.):,;*]|\s+(?:and|or)\b)")


def read_letter(text: str, options: tuple[str, ...], *, answer_first: bool = False) -> str | None:
    """The option's letter that a text settles on, or None.

    Reads, in this order: the last line that begins as an answer does, such as `Answer: option (X)`; the last sentence
    that says which is the right option; a letter alone; the text of exactly one option, word for word. Marks of
    emphasis and boxes around it are passed over. A letter that is not among the options, or that contradicts the
    option named beside it, is no answer. answer_first: the answer is the text's first line, whatever the rationale
    behind it says about answers.
    """
    if answer_first:
        text = text.strip().partition("\n")[0]
    found = _final(text)
    said = _undecorated(found[1] if found else text)
    letters = set(LETTERS[: len(options)])
    named = _named_options(said, options)
    letter = _stated_letter(said, bare=found is None)
    if letter is None:
        is_rationale = answer_first and found is None  # it came first after all, and may name any option
        return next(iter(named)) if len(named) == 1 and not is_rationale else None
    if letter not in letters or (named and letter not in named):
        return None
    return letter


def without_answer(text: str) -> str:
    """The reasoning in a text: everything before the line or sentence that gives its final answer."""
    found = _final(text)
    return text[: found[0]].strip().rstrip(_DECORATION).strip() if found else text.strip()


def _final(text: str) -> tuple[int, str] | None:
    """Where the final answer begins, and what it says; None where no words announce one."""
    if (found := _final_line(text)) is not None:
        return found
    for pattern in (_ANSWER_IS, _IS_ANSWER, _ANSWER_ANYHOW):
        matches = list(pattern.finditer(text))
        if matches:
            start = matches[-1].start()
            return (start if pattern is _ANSWER_ANYHOW else _sentence_start(text, start)), matches[-1]["said"]
    return None


def _final_line(text: str) -> tuple[int, str] | None:
    """The last line that begins as an answer does; what it says may stand on the next one."""
    lines = text.splitlines(keepends=True)
    offset = len(text)
    below = ""
    for line in reversed(lines):
        offset -= len(line)
        bare = line.strip().lstrip(_DECORATION)
        match = _ANSWER_LINE.match(bare)
        if match:
            return offset, match["said"] if match["said"].strip(_CLOSING) else below
        below = line if line.strip(_CLOSING) else below
    return None


def _sentence_start(text: str, end: int) -> int:
    """Where the sentence that reaches to `end` begins."""
    return max(text.rfind(mark, 0, end) + len(mark) if mark in text[:end] else 0 for mark in (". ", "! ", "? ", "\n"))


def _undecorated(said: str) -> str:
    """What is said, without boxes and marks of emphasis around it."""
    return _EMPHASIS.sub("", _BOXED.sub(r"\1", said)).strip(_DECORATION + "\n")


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
