"""Text -> letter or none: the only place where an answer is read.

Strict on purpose: where one would have to guess, there is no answer; it is counted as unscored and scored as wrong.
The announced answer is first compared as a whole with the options, because an option's own text may hold characters
that mean something elsewhere, as in `T2*-weighted`, `-1`, `A and B`.
"""

import re
import unicodedata
from collections import Counter

from pipelines.inference import sentences
from pipelines.records import LETTERS

_KIND = r"(?:final|correct|right|best)"
_NOUN = r"(?:answer|option|choice)"
_IS = r"(?:is|would be|must be|should be)"
_DECORATION = " \t*_#>`~$✅✔️-"
_CLOSING = _DECORATION + ".\n"
# A line that begins in this way holds the answer, whatever other lines say about answers.
_ANSWER_LINE = re.compile(
    rf"(?:(?:so|thus|hence|therefore),? )?(?:(?:the|my) )?(?:{_KIND} ){{0,2}}{_NOUN}(?: and (?:its )?letter)?"
    rf"[*_ ]*(?::|\b {_IS}\b:?|$)(?P<said>.*)",
    re.IGNORECASE,
)
# These phrases announce the answer within a line, too.
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
_THOUGHT = "think>"
_DENIED = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|without|except|but|minus|unlike|exclud(?:e|es|ed|ing)"
    r"|rul(?:e|es|ed|ing) out|rather than|instead of|absent|absence|unable|sorry)\b|n't\b"
)
# Words that leave open whether a named option is the answer.
_OPEN = re.compile(rf"{_DENIED.pattern}|\b(?:if|whether|unless|would|could)\b|\b(?:and|or) [a-z]\b|/")
_PART = re.compile(r"\b(?:panel|fig(?:ure|\.)?|image|subfigure|inset|row|column) *$")
_ABBREVIATED = re.compile(r"(.{2,}?) \((\w[\w\-]+)\)")
_STARTS_WITH_NUMBER = re.compile(r"[<>≤≥~+\-\u2212\s]*\d")
_NUMBER = re.compile(r"(?<![\w.])\d")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-") | {"’": "'"})
_BRACKETS = "()[]<>【】\"'"
_MOST_AROUND = 64  # characters that may stand around an option's text in an answer that names it and nothing else


def read_letter(text: str, options: tuple[str, ...], *, answer_first: bool = False) -> str | None:
    """The letter of the option that a text gives as its answer, or None.

    The first of these that is found is read: the last line that begins as an answer's line does, such as
    `Answer: option (X)`, unless a later sentence says that another option is right; the last sentence that says which
    option is right; a letter alone; the text of exactly one option, word for word, where no word beside it denies it or
    leaves it open. Marks of emphasis, boxes, and the thoughts of a thinking model are ignored. A letter that is not
    among the options, or that contradicts the option or number beside it, is no answer. The line that every arm learns
    to write is read back as its option, whatever the options are.

    answer_first: the answer is the text's first line, whatever the rationale after it says about answers.
    """
    text = text.strip().partition("\n")[0] if answer_first else _behind_thoughts(text, options)
    found = _final(text)
    # A rationale that came first after all may name any option.
    letter = _settled(found[1] if found else text, options, bare=found is None, by_text=bool(found) or not answer_first)
    later = _settled(said, options) if found and (said := _said_after(text, found[0])) else None
    return later or letter


def without_answer(text: str) -> str:
    """The reasoning in a text: whole sentences, up to the line, the sentence or the clause that gives the answer."""
    found = _final(text)
    return sentences.before(text, found[0]) if found else text.strip()


def _behind_thoughts(text: str, options: tuple[str, ...]) -> str:
    """The text after a thinking model's thoughts, which mention many answers; empty where the thoughts never end."""
    if any(_THOUGHT in option for option in options):
        return text
    _, closing, behind = text.rpartition(f"</{_THOUGHT}")
    return "" if not closing and text.lstrip().startswith(f"<{_THOUGHT}") else behind


def _said_after(text: str, place: int) -> str | None:
    """What a line after the final answer's line says about the right option: there the writer changed its mind."""
    line_end = text.find("\n", place)
    matches = [each for pattern in (_ANSWER_IS, _IS_ANSWER) for each in pattern.finditer(text)]
    last = max(matches, key=lambda match: match.start(), default=None)
    return last["said"] if last and -1 < line_end < last.start() else None


def _settled(said: str, options: tuple[str, ...], *, bare: bool = False, by_text: bool = True) -> str | None:
    """The letter of the one option that is given as the answer, or None.

    said: what the announcement is followed by. bare: no words announce an answer, so that it is the whole text.
    by_text: an option may be named without its letter.
    """
    if (meant := _meant(said, options)) is not None:
        return meant.pop() if len(meant) == 1 else None
    said = _EMPHASIS.sub("", _BOXED.sub(r"\1", said)).strip(_DECORATION + "\n")
    named, beside = _named_options(said, options, abbreviated=not bare)
    letter = _stated_letter(said, bare, beside)
    if letter is None:
        only = next(iter(named)) if by_text and len(named) == 1 and not _OPEN.search(beside) else None
        return only if only and not re.fullmatch(r"[^\W\d]", options[LETTERS.index(only)]) else None
    if letter not in LETTERS[: len(options)] or (named and letter not in named):
        return None
    is_other_number = _STARTS_WITH_NUMBER.match(options[LETTERS.index(letter)]) and _NUMBER.search(said)
    return None if is_other_number and letter not in named else letter


def _meant(said: str, options: tuple[str, ...]) -> set[str] | None:
    """The letters that can be meant where `said` is an option, with or without its letter, and nothing else.

    None for any other text. The empty set where letter and text contradict each other. First comes an exact comparison
    with the line that is taught, then one that is as loose as possible while these options stay different.
    """
    if len(said) > 2 * max(map(len, options), default=0) + _MOST_AROUND:
        return None
    taught = {_closely(f"{option} ({letter})"): letter for letter, option in zip(LETTERS, options, strict=False)}
    if (line := _closely(said)) in taught:
        return {taught[line]}
    loose = set(map(_loosely, options))
    plain = _loosely if len(loose) == len(options) and "" not in loose else _closely
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
        return {pairs[0][0]}  # the line that is taught, as near as these options allow
    alone = texts.get(heard, set()) | ({heard.strip(_BRACKETS).upper()} & set(LETTERS[: len(options)]))
    if alone:
        return alone
    named = [(letter, letters) for letter, letters in pairs if letters]
    return {letter for letter, letters in named if letter in letters} if named else None


def _closely(text: str) -> str:
    """A text in one form of each character, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _loosely(text: str) -> str:
    """A text without case, spaces, emphasis, boxes and full stop, with one form for all characters of one meaning."""
    shown = unicodedata.normalize("NFKC", _EMPHASIS.sub("", _BOXED.sub(r"\1", text))).translate(_DASHES)
    return "".join(shown.casefold().split()).rstrip(".")


def _final(text: str) -> tuple[int, str] | None:
    """The place where the final answer is announced, and the text after that; None where no words announce one."""
    if (found := _final_line(text)) is not None:
        return found
    for pattern in (_ANSWER_IS, _IS_ANSWER, _ANSWER_ANYHOW):
        matches = list(pattern.finditer(text))
        if matches:
            return matches[-1].start(), matches[-1]["said"]
    return None


def _final_line(text: str) -> tuple[int, str] | None:
    """The last line that begins as an answer's line does. The answer itself may stand on the next line."""
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


def _stated_letter(said: str, bare: bool, beside: str) -> str | None:
    """The one letter that stands in brackets, or at the start with nothing but a mark after it.

    None where there are two of them, and where the letter is denied or names a part of a picture. beside: `said`
    without the texts of options.
    """
    parenthesised = set(_PARENTHESISED.findall(said))
    if parenthesised:
        letter = parenthesised.pop()
        before = beside.partition(f"({letter.casefold()})")[0]
        return None if parenthesised or _DENIED.search(before) or _PART.search(before) else letter
    leading = _LEADING.match(said)
    # Where no words announce an answer, a capital that starts a sentence ("A smooth ...") is none.
    if leading is None or (bare and len(said.strip(" .:()*")) > 1):
        return None
    others = set(_LONE_LETTER.findall(said)) - {leading[1]}
    return None if others else leading[1]


def _named_options(said: str, options: tuple[str, ...], abbreviated: bool) -> tuple[set[str], str]:
    """Letters of the options whose text stands in `said` as whole words, and the rest of `said`.

    A shorter option inside a longer one is not found. abbreviated: of an option `text (abbreviation)`, either part is
    enough.
    """
    remaining, named = said.casefold().translate(_DASHES), set()
    texts = [
        (letter, part)
        for letter, option in zip(LETTERS, options, strict=False)
        for part in _names_of(option, abbreviated)
    ]
    times = Counter(part for _, part in texts)
    for letter, part in sorted(texts, key=lambda pair: -len(pair[1])):
        # `no` denies the word after it, unless it is the whole answer.
        pattern = rf"^\W*{part}(?=\W*$|\W*[.,;:!])" if part in {"yes", "no"} else _whole(part)
        if times[part] == 1 and re.search(pattern, remaining):
            named.add(letter)
            remaining = re.sub(pattern, " ", remaining)
            if part in {"yes", "no"}:
                return named, ""
    return named, remaining


def _names_of(option: str, abbreviated: bool) -> set[str]:
    text = option.casefold().translate(_DASHES).strip()
    both = _ABBREVIATED.fullmatch(text) if abbreviated else None
    return {text, *(both.groups() if both else ())} - {""}


def _whole(text: str) -> str:
    """A pattern for a text that is not part of a longer word or another number: 1 is not found in -1, 1.5, 10^1, 1+."""
    before = r"(?<![\w+\-^/])(?<!\d[.,])" if text[0].isdigit() else r"(?<!\w)"
    after = r"(?!\w|[.,/^]\d|[+%])" if text[-1].isdigit() else r"(?!\w)"
    return f"{before}{re.escape(text)}{after}"
