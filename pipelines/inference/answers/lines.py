"""Text -> the answer that one of its lines is, where no words announce it."""

import re

from pipelines.inference.answers import phrases, plain, settling
from pipelines.inference.answers.options import Options, Whole
from pipelines.inference.answers.reading import How, Missing, Reading

_SHORT = 240  # characters of a line in which an option's text alone may be the answer
_MOST_LINES = 48  # at either end of a text that are looked at
_LETTERED = re.compile(r" {0,8}(?:option |choice )?[(\[]?([A-Z])(?:[)\]:]| ?\. | {1,4}[-|] )")
_HEADING = re.compile(r"(?:^|[.;,] )\s*[(\[]?([A-Z])[)\]:]\s")
_SPEAKS_OF_OPTION = re.compile(rf"(?:{_LETTERED.pattern})|(?i: *(?:option|choice) [A-Z]\b)")
_IS_LETTER = re.compile(r"\bis [(\[]?([A-Z])[)\].]{0,2}\s*$")
_REJECTED = re.compile(
    r"\b(?:is|are|was|be|it|this|clearly|therefore|also|as)(?: \w+){0,2} "
    r"(?:wrong|incorrect|false|excluded|ruled out|unlikely|not correct|eliminated)\b"
    r"|^\W*[A-Z]\W{1,6}(?:no|wrong|false|incorrect)\W*(?:$|[,.;])",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(
    r"(?:(?<=[.!?] )|^)(?:therefore|thus|hence|so|in conclusion|overall|consequently)\b", re.IGNORECASE
)
_TEXT_AND_LETTER = re.compile(
    r"\s*(?:(?!(?i:in|at|to|from|see|and)\b)\w[\w\-/+]{0,40}[ ,]{1,3}){1,8}\([A-Z]\)[\s.]{0,8}"
)
_MARKED = re.compile(r"[\s\"']{0,8}(?:(?:option|choice) )?[(\[<]?([A-Za-z])[)\]>.:,;]")


def _spans(even: str) -> list[tuple[int, int]]:
    """Start and end of each line that is not empty."""
    spans, start = [], 0
    for line in even.split("\n"):
        if line.strip():
            spans.append((start, start + len(line)))
        start += len(line) + 1
    return spans


def _is_list(even: str, spans: list[tuple[int, int]], options: Options) -> bool:
    """Whether lines begin with different letters, as where the options are gone through one by one.

    Below a first line that is an option and nothing else, lines about others are no such list where they reject them,
    or where an earlier letter follows.
    """
    found = [each for start, end in spans if (each := _LETTERED.match(even, start, end))]
    if len({each[1] for each in found}) in (0, 1):
        return False
    (start, end), first = spans[0], found[0]
    is_answered = first.start() == start and options.whole(even[start:end]) is not None
    others = found[1:]
    is_told = min(each[1] for each in others) < first[1] or all(_rejects(even, each.end()) for each in others)
    return not (is_answered and is_told and all(each[1] != first[1] for each in others))


def _rejects(even: str, place: int) -> bool:
    line = even[place : place + _SHORT].partition("\n")[0]
    return phrases.search("deny", line) is not None


def lone(said: str, options: Options) -> Reading | None:
    """The last line that is a letter, with or without its option's text, and nothing else."""
    even = plain.even(said)
    spans = _spans(even)
    is_list = _is_list(even, spans, options)
    found: Reading | None = None
    letters = set()
    refused = settling.refusal_place(even)
    ends = sorted({*range(min(len(spans), _MOST_LINES)), *range(max(0, len(spans) - _MOST_LINES), len(spans))})
    for number in reversed(ends):
        start, end = spans[number]
        line, shown = said[start:end], even[start:end].strip()
        letter = options.of_letter(shown)
        repeats = is_list and (mark := _LETTERED.match(even, start, end)) and _repeats(mark[1], even, spans[:number])
        is_unmarked = not _MARKED.match(shown) and len(spans) > 1
        if letter is None and ((is_list and not repeats) or (is_unmarked and number)):
            continue
        whole = options.whole(line)
        if whole is None and letter and letter in options.letters:
            whole = Whole(frozenset(letter), None)
        if letter is None and whole is None:
            continue
        if letter and shown.islower() and is_unmarked:
            continue
        if 0 <= refused < start:
            return None
        reading = _of_line(whole, start, How.FIRST_LINE if number == 0 < len(spans) - 1 else How.LAST_LINE)
        if found is None:
            found = reading
        letters.add(reading.letter)
    return Reading(missing=Missing.SEVERAL, place=found.place) if found and len(letters) > 1 else found


def _repeats(letter: str, even: str, spans: list[tuple[int, int]]) -> bool:
    """Whether a letter that begins a line began one before, so that it is a conclusion and no part of a list."""
    before = (_LETTERED.match(even, start, end) for start, end in spans)
    return any(found and found[1] == letter for found in before)


def _of_line(whole: Whole | None, place: int, how: How) -> Reading:
    if whole is None:
        return Reading(missing=Missing.NOT_AN_OPTION, place=place)
    if len(whole.letters) != 1:
        missing = Missing.SEVERAL if whole.letters else Missing.CONTRADICTION
        return Reading(missing=missing, text_letter=whole.text_letter, place=place)
    return Reading(letter=next(iter(whole.letters)), how=how, text_letter=whole.text_letter, place=place)


def by_text(said: str, options: Options) -> Reading | None:
    """The one option whose text is affirmed in the last line, where that is short and nothing refuses an answer."""
    even = plain.even(said)
    spans = _spans(even)
    if not spans or settling.refusal_place(even) >= 0 or _is_list(even, spans, options):
        return None
    start, end = spans[-1]
    start = max((each.start() for each in _CONCLUDES.finditer(even[start:end])), default=0) + start
    line, shown = said[start:end], even[start:end]
    if end - start > max(_SHORT, options.longest + _SHORT // 2) or _SPEAKS_OF_OPTION.match(shown):
        return None
    settled = settling.by_letter_beside(line, options)
    is_paraphrase = len(spans) == 1 and _TEXT_AND_LETTER.fullmatch(shown)
    is_own = settled and (settled.letter == settled.text_letter or (is_paraphrase and not settled.text_letter))
    letter = settled.letter if settled and is_own else None
    if letter is None:
        named, sure = options.affirmed(line)
        if len(sure) != 1 or (len(named) > 1 and not settling.is_set_apart(line)):
            return Reading(missing=Missing.SEVERAL, place=start) if len(sure) > 1 else None
        letter = min(sure)
    told = _IS_LETTER.search(shown)
    if told and told[1] != letter:
        return Reading(missing=Missing.CONTRADICTION, text_letter=letter, place=start)
    return Reading(letter=letter, how=How.OPTION_TEXT, text_letter=letter, place=start)


def opening(said: str, options: Options) -> Reading | None:
    """The letter with a mark behind it that begins the text, as in `A. The bone is bright.`"""
    even = plain.even(said)
    spans = _spans(even)
    if not spans or _is_list(even, spans, options):
        return None
    start, end = spans[0]
    found = _MARKED.match(even, start, end) or re.match(
        r"\s*[A-Z]\s?(?:/|&|\+|-|(?:and|or|because|since|as|due|given|rather|instead|not|over)\b)", even[start:end]
    )
    if not found:
        return None
    line = even[start:end]
    if _REJECTED.search(line) or len({each[1] for each in _HEADING.finditer(line)}) > 1:
        return None
    settled = settling.settle(said[start:end], options)
    if settled is None or (settled.letter is None and not settled.decisive) or settled.missing is Missing.NOT_AN_OPTION:
        return None
    if settled.letter is None:
        return Reading(missing=settled.missing, text_letter=settled.text_letter, place=start)
    return Reading(letter=settled.letter, how=How.FIRST_LINE, text_letter=settled.text_letter, place=start)
