"""Text -> where it announces answers, and what it says there."""

import dataclasses
import functools
import re

from pipelines.inference.answers import phrases, plain, settling
from pipelines.inference.answers.options import Options
from pipelines.inference.answers.reading import Missing, Settled

_MOST_READ = 48  # announcements, from the last one: a text with more that say nothing announces nothing
_BEFORE = 200  # characters before `is the right answer`, or before an announcement, that are read
_SENTENCE_START = re.compile(r"(?<![(\[\s][A-Za-z])(?<!^[A-Za-z])(?:[.!?;]\s|。)|\n")
_CLAUSE = re.compile(r"[,;:.!?]\s|\b(?:so|but|hence|therefore|thus|and (?=the|my|so))\b|\n")
_GUESSES = re.compile(r"\bif (?:i (?:had|have|were|must|was)|forced|pressed|pushed|required|asked)\b", re.IGNORECASE)
_DOUBTED = re.compile(
    r"\b(?:not|never|cannot|\w{1,8}n't|hardly|no longer) (?:\w+ ){0,2}(?:think|believe|say|sure|certain|true|"
    r"clear|mean|imply|conclude|know|agree|convinced|suggest|determine|tell|confirm)\b|"
    r"\b(?:wrong|incorrect|false|doubt\w{0,5}|unlikely|mistake\w{0,4}|unclear|deny|denies) (?:\w+ ){0,3}$"
    r"|(?:\bnot|n't) $",
    re.IGNORECASE,
)
_SENTENCE_END = re.compile(r"[.!](?=\s|$)|[\n。]|\?")


@functools.lru_cache(maxsize=64)
def _patterns(spoken: tuple[str, ...]) -> dict[str, re.Pattern[str]]:
    """What finds announcements in these languages."""
    label, says, behind, several, letter_next = (
        phrases.either(kind, spoken) for kind in ("label", "says", "behind", "several_behind", "letter_next")
    )
    between = phrases.either("lead", spoken)
    return {
        "label": re.compile(
            rf"^[ \"'(]*{label}(?: {{0,6}}(?:[:=]|-?>|- )| {{3,8}}(?=\S)| {{0,6}}$)[ :\"']*", re.MULTILINE
        ),
        "says": re.compile(says, re.MULTILINE),
        "behind": re.compile(rf"{behind}|(?P<several>{several})", re.MULTILINE),
        "letter_next": re.compile(
            rf"{letter_next}[ :,]{{0,3}}(?:{between} ){{0,3}}"
            r"(?P<said>[(\[<\"' ]{0,4}[a-z](?![a-z0-9'+]|-\w|[.&/]\w))",
            re.MULTILINE,
        ),
    }


@dataclasses.dataclass(frozen=True, slots=True)
class Announced:
    """An announcement, from `start`, and what it settles on. end: of what it says."""

    start: int
    end: int
    settled: Settled


@dataclasses.dataclass(frozen=True, slots=True)
class _Found:
    start: int
    said: int  # where what it says begins; ends, where that stands before the announcement
    behind: bool = False
    label: bool = False
    several: bool = False


def last(text: str, options: Options, *, weak: bool = True) -> Announced | None:
    """The last announcement by position that settles on something, an option or the lack of one.

    weak: where no other says anything, also those such as `most likely (B)`.
    """
    even = plain.even(text)
    found = _last_of(_strong(even), text, even, options)
    return found or (_last_of(_weak(even), text, even, options, letter_only=True) if weak else None)


@functools.lru_cache(maxsize=1024)
def is_announced_in(texts: tuple[str, ...]) -> bool:
    """Whether one of these texts announces an answer itself, as `The answer is unclear` does."""
    return any(_strong(plain.even(text)) for text in texts)


def place_of_last(text: str) -> int | None:
    """Where the last announcement stands, whatever it says: that which begins a line, if one does."""
    found = _strong(plain.even(text))
    return max((each.start for each in [one for one in found if one.label] or found), default=None)


def _last_of(
    found: list[_Found], text: str, even: str, options: Options, *, letter_only: bool = False
) -> Announced | None:
    spare: Announced | None = None
    for each in sorted(found, key=lambda one: (one.said, one.label), reverse=True)[:_MOST_READ]:
        settled, start, end = _read(each, text, even, options, letter_only=letter_only)
        if settled is None or (letter_only and settled.letter is None):
            continue
        announced = Announced(start, end, settled)
        if settled.decisive:
            return _beside_line_before(announced, each, found, text, even, options)
        spare = spare or announced
    return spare


def _beside_line_before(
    last: Announced, is_last: _Found, found: list[_Found], text: str, even: str, options: Options
) -> Announced:
    """An announcement, unless the line right before it is one of another option, with nothing that corrects it."""
    if not is_last.label or re.match(r"\W*(?:the )?(?:final|correct)", even[is_last.start :], re.IGNORECASE):
        return last
    before = max(
        (one for one in found if one.label and one.start < is_last.start), key=lambda one: one.said, default=None
    )
    if before is None or even[_line_end(even, before.said) : is_last.start].strip():
        return last
    settled, *_ = _read(before, text, even, options, letter_only=False)
    if settled is None or settled.letter in (None, last.settled.letter) or last.settled.letter is None:
        return last
    is_text = settled.text_letter and not last.settled.text_letter
    missing = Missing.CONTRADICTION if is_text else Missing.SEVERAL
    return dataclasses.replace(last, settled=Settled(missing=missing, text_letter=settled.text_letter))


def _strong(even: str) -> list[_Found]:
    even = even.lower()
    patterns = _patterns(phrases.languages(even))
    labels = (_Found(each.start(), each.end(), label=True) for each in patterns["label"].finditer(even))
    said = (_Found(each.start(), each.end()) for each in patterns["says"].finditer(even))
    behind = (
        _Found(each.start(), each.start(), behind=True, several=bool(each["several"]))
        for each in patterns["behind"].finditer(even)
    )
    return [*labels, *said, *behind]


def _weak(even: str) -> list[_Found]:
    even = even.lower()
    pattern = _patterns(phrases.languages(even))["letter_next"]
    return [_Found(each.start(), each.start("said")) for each in pattern.finditer(even)]


def _read(
    found: _Found, text: str, even: str, options: Options, *, letter_only: bool
) -> tuple[Settled | None, int, int]:
    """What an announcement settles on, with its start, and the end of what it says."""
    if found.behind:
        start = _sentence_start(even, found.said)
        if even[found.said : found.said + _BEFORE].partition("\n")[0].rstrip(" \"'").endswith("?"):
            return None, start, found.said
        if found.several:
            letters = [*settling.letters_in(even[start : found.said], options)]
            return (settling.SEVERAL if len(letters) > 1 else None), start, found.said
        settled = settling.settle_before(text[start : found.said], options)
        return settled, start, found.said
    end = _line_end(even, found.said)
    if not found.label and not letter_only and not even[found.said : end].strip(" :."):
        end = _next_line_end(even, end)
    if found.label and not text[found.said : end].strip(" *_`:\"'#>|$"):
        end = _next_line_end(even, end)
    if not found.label and _is_open(even, found, end, is_weak=letter_only):
        return None, found.start, end
    settled = settling.settle(text[found.said : end], options, letter_only=letter_only)
    if letter_only and settled:
        named, _ = options.affirmed(text[_sentence_start(even, found.start) : found.start], abbreviated=True)
        if named and settled.letter not in named:
            return None, found.start, end
    return settled, found.start, found.said


def _sentence_start(even: str, place: int) -> int:
    begin = max(0, place - _BEFORE)
    ends = [each.end() for each in _SENTENCE_START.finditer(even, begin, place)]
    return ends[-1] if ends else begin


def _line_end(even: str, place: int) -> int:
    end = even.find("\n", place)
    return len(even) if end < 0 else end


def _next_line_end(even: str, end: int) -> int:
    """The end of the next line that is not empty."""
    while end < len(even):
        following = _line_end(even, end + 1)
        if any(map(str.isalnum, even[end + 1 : following])):
            return following
        end = following
    return len(even)


def _is_open(even: str, found: _Found, end: int, *, is_weak: bool) -> bool:
    """Whether the sentence of an announcement denies it, asks for it, or leaves it open."""
    start = _sentence_start(even, found.start)
    before = even[start : found.start]
    if re.search(r"\b(?:if|unless|suppose|assuming|wenn|falls)\b", before, re.IGNORECASE) and not _GUESSES.search(
        before
    ):
        return True
    clause = _CLAUSE.split(before)[-1]
    said = even[found.start : end]
    if is_weak and (phrases.search("deny", clause) or settling.refusal_place(clause) >= 0):
        return True
    if _DOUBTED.search(clause) or (phrases.search("open", clause) and not _GUESSES.search(before)):
        return True
    sentence_end = _SENTENCE_END.search(even, found.said, end)
    return bool(said) and sentence_end is not None and sentence_end[0] == "?"


def takes_back(text: str, announced: Announced, *, cut_off: bool) -> bool:
    """Whether what follows an announcement takes it back. cut_off: the text has no end, so that a doubt is enough."""
    behind = plain.even(text[announced.end :])
    return bool(phrases.search("revoke", behind) or (cut_off and phrases.search("reconsider", behind)))
