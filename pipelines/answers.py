"""Text -> letter or none: the only place where an answer is read.

Strict on purpose: an answer that has to be guessed is no answer, it is counted as unscored and scored as wrong.
What is announced is first compared, as a whole, with the options as they are: their texts may hold any mark that means
something elsewhere, such as `T2*-weighted`, `-1`, `A and B`.
"""

import re
import unicodedata

from pipelines import sentences
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
_LETTER_FIRST = re.compile(r"\(?([A-Za-z])[.):,]+ ?(.+)")
_LETTER_LAST = re.compile(r"(.+?) ?\(([A-Za-z])\)")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-") | {"’": "'"})
_BRACKETS = "()[]<>【】\"'"
_MOST_AROUND = 64  # characters around an option's text, in an answer that holds nothing else


def read_letter(text: str, options: tuple[str, ...], *, answer_first: bool = False) -> str | None:
    """The option's letter that a text settles on, or None.

    Reads, in this order: the last line that begins as an answer does, such as `Answer: option (X)`; the last sentence
    that says which is the right option; a letter alone; the text of exactly one option, word for word. Marks of
    emphasis and boxes around it are passed over. A letter that is not among the options, or that contradicts the
    option named beside it, is no answer. The line that every arm learns to write is read back as its option, whatever
    the options are. answer_first: the answer is the text's first line, whatever the rationale behind it says about
    answers.
    """
    if answer_first:
        text = text.strip().partition("\n")[0]
    found = _final(text)
    if (meant := _meant(found[1] if found else text, options)) is not None:
        return meant.pop() if len(meant) == 1 else None
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
    """The reasoning in a text: whole sentences, up to the line, the sentence or the clause that gives the answer."""
    found = _final(text)
    return sentences.before(text, found[0]) if found else text.strip()


def _meant(said: str, options: tuple[str, ...]) -> set[str] | None:
    """The letters that can be meant where an option, with its letter or without, is all that is said.

    None for anything else; no letter where letter and text contradict each other. Comparing is as loose as it can be
    with these options told apart.
    """
    if len(said) > 2 * max(map(len, options), default=0) + _MOST_AROUND:
        return None
    plain = _loosely if len(set(map(_loosely, options))) == len(options) else _closely
    texts: dict[str, set[str]] = {}
    for letter, option in zip(LETTERS, options, strict=False):
        texts.setdefault(plain(option), set()).add(letter)
    heard = plain(said)
    last, first = _LETTER_LAST.fullmatch(heard), _LETTER_FIRST.fullmatch(heard)
    pairs = [
        (found[letter].upper(), texts.get(plain(found[text]), set()))
        for found, letter, text in ((last, 2, 1), (first, 1, 2))
        if found
    ]
    if last and pairs[0][0] in pairs[0][1]:
        return {pairs[0][0]}  # the line that is taught
    alone = texts.get(heard, set()) | ({heard.strip(_BRACKETS).upper()} & set(LETTERS[: len(options)]))
    if alone:
        return alone
    named = [(letter, letters) for letter, letters in pairs if letters]
    return {letter for letter, letters in named if letter in letters} if named else None


def _closely(text: str) -> str:
    """A text in one form of each character, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _loosely(text: str) -> str:
    """The same without case, spaces, emphasis, boxes, a full stop, and what sets characters of one meaning apart."""
    shown = unicodedata.normalize("NFKC", _EMPHASIS.sub("", _BOXED.sub(r"\1", text))).translate(_DASHES)
    return "".join(shown.casefold().split()).rstrip(".")


def _final(text: str) -> tuple[int, str] | None:
    """Where the final answer begins, and what it says; None where no words announce one."""
    if (found := _final_line(text)) is not None:
        return found
    for pattern in (_ANSWER_IS, _IS_ANSWER, _ANSWER_ANYHOW):
        matches = list(pattern.finditer(text))
        if matches:
            return matches[-1].start(), matches[-1]["said"]
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
