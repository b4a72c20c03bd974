"""Text -> letter or none: the only place where an answer is read.

Strict on purpose: an answer that has to be guessed is no answer, it is counted as unscored and scored as wrong.
What is announced is first compared, as a whole, with the options as they are: their texts may hold any mark that means
something elsewhere, such as `T2*-weighted`, `-1`, `A and B`.
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
_THOUGHT = "think>"
_DENIED = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|without|except|but|minus|unlike|exclud(?:e|es|ed|ing)"
    r"|rul(?:e|es|ed|ing) out|rather than|instead of|absent|absence|unable|sorry)\b|n't\b"
)
# What leaves open whether an option that is named is meant.
_OPEN = re.compile(rf"{_DENIED.pattern}|\b(?:if|whether|unless|would|could)\b|\b(?:and|or) [a-z]\b|/")
_PART = re.compile(r"\b(?:panel|fig(?:ure|\.)?|image|subfigure|inset|row|column) *$")
_ABBREVIATED = re.compile(r"(.{2,}?) \((\w[\w\-]+)\)")
_STARTS_WITH_NUMBER = re.compile(r"[<>≤≥~+\-\u2212\s]*\d")
_NUMBER = re.compile(r"(?<![\w.])\d")
_DASHES = str.maketrans(dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-") | {"’": "'"})
_BRACKETS = "()[]<>【】\"'"
_MOST_AROUND = 64  # characters around an option's text, in an answer that holds nothing else


def read_letter(text: str, options: tuple[str, ...], *, answer_first: bool = False) -> str | None:
    """The option's letter that a text settles on, or None.

    Reads, in this order: the last line that begins as an answer does, such as `Answer: option (X)`, unless a sentence
    behind it says that another is right; the last sentence that says which is the right option; a letter alone; the
    text of exactly one option, word for word, where nothing beside it denies it or leaves it open. Marks of emphasis
    and boxes around it are passed over, and so are a thinking model's thoughts. A letter that is not among the options,
    or that contradicts the option or the number named beside it, is no answer. The line that every arm learns to write
    is read back as its option, whatever the options are.

    answer_first: the answer is the text's first line, whatever the rationale behind it says about answers.
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
    """What stands behind a thinking model's thoughts, which say much about answers; nothing where they never end."""
    if any(_THOUGHT in option for option in options):
        return text
    _, closing, behind = text.rpartition(f"</{_THOUGHT}")
    return "" if not closing and text.lstrip().startswith(f"<{_THOUGHT}") else behind


def _said_after(text: str, place: int) -> str | None:
    """What is said of the right option in a line behind that of the final answer: it was thought better of."""
    line_end = text.find("\n", place)
    matches = [each for pattern in (_ANSWER_IS, _IS_ANSWER) for each in pattern.finditer(text)]
    last = max(matches, key=lambda match: match.start(), default=None)
    return last["said"] if last and -1 < line_end < last.start() else None


def _settled(said: str, options: tuple[str, ...], *, bare: bool = False, by_text: bool = True) -> str | None:
    """The letter of the one option that is said to be right. bare: nothing announces an answer. by_text: an option
    may be named without its letter."""
    if (meant := _meant(said, options)) is not None:
        return meant.pop() if len(meant) == 1 else None
    said = _undecorated(said)
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
    """The letters that can be meant where an option, with its letter or without, is all that is said.

    None for anything else; no letter where letter and text contradict each other. The line that is taught, sign for
    sign, comes first; then comparing is as loose as it can be with these options told apart.
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


def _stated_letter(said: str, bare: bool, beside: str) -> str | None:
    """The one letter that stands in brackets, or at the start with nothing but its mark behind it; two are none, and
    one that is denied, or that a picture's part is called by. beside: what is said besides the options' texts."""
    parenthesised = set(_PARENTHESISED.findall(said))
    if parenthesised:
        letter = parenthesised.pop()
        before = beside.partition(f"({letter.casefold()})")[0]
        return None if parenthesised or _DENIED.search(before) or _PART.search(before) else letter
    leading = _LEADING.match(said)
    # Without the final line's `Answer:`, a capital that starts a sentence ("A smooth ...") is not an answer.
    if leading is None or (bare and len(said.strip(" .:()*")) > 1):
        return None
    others = set(_LONE_LETTER.findall(said)) - {leading[1]}
    return None if others else leading[1]


def _named_options(said: str, options: tuple[str, ...], abbreviated: bool) -> tuple[set[str], str]:
    """Letters of the options whose text stands in `said` as whole words, and what is left; longer ones hide those
    inside them. abbreviated: also where either of `text (abbreviation)` stands there alone."""
    remaining, named = said.casefold().translate(_DASHES), set()
    texts = [
        (letter, part)
        for letter, option in zip(LETTERS, options, strict=False)
        for part in _names_of(option, abbreviated)
    ]
    times = Counter(part for _, part in texts)
    for letter, part in sorted(texts, key=lambda pair: -len(pair[1])):
        # `no` denies the word behind it, unless it is all of the answer.
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
    """A pattern for a text that is part of no longer word and no other number: 1 is none of -1, 1.5, 10^1 and 1+."""
    before = r"(?<![\w+\-^/])(?<!\d[.,])" if text[0].isdigit() else r"(?<!\w)"
    after = r"(?!\w|[.,/^]\d|[+%])" if text[-1].isdigit() else r"(?!\w)"
    return f"{before}{re.escape(text)}{after}"
