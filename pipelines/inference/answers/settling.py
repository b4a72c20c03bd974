"""What is said where an answer stands -> the option that it gives, or why it gives none."""

import re

from pipelines.inference.answers import letters, phrases, plain
from pipelines.inference.answers.options import Options
from pipelines.inference.answers.reading import Missing, Settled

_MOST = 400  # characters behind an announcement that are read
_BESIDE = re.compile(r"[(\[](?:(?:option|choice|answer) )?([A-Za-z])[)\]]", re.IGNORECASE)
_ALONE = re.compile(
    r"(?<![\w'.\-])(?:[(\[\"']([A-Za-z])[)\]\"']|([A-Z])(?=\s*$|[).:,;\]\"']|\s+\(|\s+(?:and|or|nor)\b))"
)
_INSTEAD = re.compile(r"\W{0,4}not\b[^.;\n]{1,80}?(?:,? but(?: rather)?\b|; ?(?:it is|it's|rather))\s*", re.IGNORECASE)
_PART = re.compile(
    r"\b(?:panels?|figs?(?:ure)?s?\.?|images?|subfigures?|insets?|rows?|columns?|parts?) *[(\[]?$", re.IGNORECASE
)
_LINE_END = re.compile(r"\n")
_SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z])|\n")
_CLAUSE_END = re.compile(r"[.;!?]\s|, (?:and|but)? ?(?=not )")
_BEFORE_CONCLUSION = re.compile(r"[,;:]|\b(?:so|but|hence|therefore|thus|while|whereas|because)\b")
_BEFORE_LETTER = re.compile(r"[,;:]\s|\b(?:so|but|hence|therefore|thus|while|whereas|that|believe|think)\b")
_SET_APART = re.compile(
    r"\b(?:not?|neither|without|would|rather than|instead of|unlike|as opposed to|so|thus|hence|therefore|but)\b"
)
_NUMBER = re.compile(r"(?<![\w.])\d")
_EVERY = re.compile(
    r"\b(?:all|both|any|each|none) (?:of (?:them|the above|these|the options)|options|the above)"
    r"|\b(?:multiple|several) (?:options|answers)",
    re.IGNORECASE,
)
_RUN = re.compile(r"[^\w]*([A-Z]{2,5})\W*")  # `AC` for A and C
_NOUN_AND_LETTER = re.compile(r"[A-Za-z]{3,} ?[A-Z]\W*$")  # `vitamin B`
_LEAD_AND_LETTER = re.compile(rf"(?:{letters.LEAD}|{letters.AND}|only|given|remaining) ?[(\[]?[A-Z]\W*$", re.IGNORECASE)
SEVERAL = Settled(missing=Missing.SEVERAL)


def settle(said: str, options: Options, *, letter_only: bool = False) -> Settled | None:
    """What is said behind an announcement, as the option that it gives; None where it says nothing about options.

    Read is the text as a whole, then a letter that begins it, a letter in brackets, and the text of an option.
    letter_only: behind a weak announcement, where neither of the last two counts.
    """
    said = said[: max(_MOST, 2 * options.longest)]
    if instead := _INSTEAD.match(plain.even(said)):
        said = said[instead.end() :]
    even = plain.even(said)
    if not even.strip(" \n:") or (letter_only and re.match(r"\s*[a-z]", even)):
        return _as_whole(said, options) if not letter_only else None
    start = letters.after_lead(even)
    whole = _as_whole(said, options) or _as_whole(said[start:], options)
    if whole is not None:
        return whole
    if (found := letters.at(even, start, said, options)) is not None:
        return letters.settle(found, said, options)
    return None if letter_only else by_letter_beside(said, options) or _by_text(said, even, options)


def settle_before(said: str, options: Options) -> Settled | None:
    """What stands before words such as `is the right answer`, as the option that it gives."""
    even = plain.even(said)
    if phrases.search("deny", even) and options.whole(said) is None:
        even = _BEFORE_CONCLUSION.split(even)[-1]
        said = said[len(said) - len(even) :]
        if phrases.search("deny", even):
            return None
    bare = said[letters.after_lead(even) :].strip(" ,;")
    if (whole := _as_whole(bare, options)) is not None:
        return whole
    last = _BEFORE_LETTER.split(even)[-1]
    for part in (even, last):
        part_said = said[len(even) - len(part) :]
        found = letters.at(part, letters.after_lead(part), part_said, options)
        if found and (found["letter"].isupper() or found["open"].strip()):
            return letters.settle(found, part_said, options)
    return _by_last_letter(last, said[len(even) - len(last) :], options)


def by_letter_beside(said: str, options: Options) -> Settled | None:
    """The one letter in brackets, as in `what it shows (B)`, unless it is denied or names a part of a picture."""
    line = letters.cut(plain.even(said), _LINE_END)
    kept = set()
    for each in _BESIDE.finditer(line):
        if _PART.search(line[: each.start()]):
            return None
        clause = _CLAUSE_END.split(_without_options(said[: each.start()], options))[-1]
        if not (phrases.search("deny", clause) or phrases.search("open", clause)):
            kept.add(each[1].upper())
    if len(kept) != 1:
        return SEVERAL if kept else None
    letter = kept.pop()
    settled = _with_texts(letter, *options.affirmed(said[: len(line)], abbreviated=True), options)
    if (
        settled.letter
        and not settled.text_letter
        and letters.is_number(options.text_of(letter))
        and _NUMBER.search(line)
    ):
        return Settled(missing=Missing.CONTRADICTION)
    return settled


def letters_in(even: str, options: Options) -> set[str]:
    """The letters of options that stand alone in a text."""
    return {str(each[1] or each[2]).upper() for each in _ALONE.finditer(even)} & set(options.letters)


def is_set_apart(text: str) -> bool:
    """Whether a text gives one option and sets another against it."""
    return _SET_APART.search(text) is not None


def refusal_place(even: str) -> int:
    """Where a text first says that it gives no answer, or that it sees no image; -1 where it does not."""
    found = phrases.search("refuse", even)
    return found.start() if found else -1


def _as_whole(said: str, options: Options) -> Settled | None:
    whole = options.whole(said)
    if whole is None:
        return None
    if len(whole.letters) == 1:
        return Settled(letter=min(whole.letters), text_letter=whole.text_letter)
    return Settled(missing=Missing.SEVERAL if whole.letters else Missing.CONTRADICTION, text_letter=whole.text_letter)


def _with_texts(letter: str, named: set[str], sure: set[str], options: Options) -> Settled:
    """A letter beside the texts of options: they are its own, or contradict it."""
    if letter not in options.letters:
        return Settled(missing=Missing.NOT_AN_OPTION)
    if named and letter not in named:
        return Settled(missing=Missing.CONTRADICTION, text_letter=min(sure) if len(sure) == 1 else None)
    return Settled(letter=letter, text_letter=letter if letter in named else None)


def _without_options(said: str, options: Options) -> str:
    spelled = options.spelled(said)
    for mention in reversed(options.mentions(spelled, abbreviated=True)):
        spelled = spelled[: mention.start] + spelled[mention.end :]
    return spelled


def _by_text(said: str, even: str, options: Options) -> Settled | None:
    """The option whose text is given without a letter."""
    line, first = letters.cut(even, _LINE_END), said[: len(letters.cut(even, _SENTENCE_END))]
    if refusal_place(line) >= 0:
        return Settled(missing=Missing.REFUSAL)
    named, sure = options.affirmed(first, abbreviated=True)
    if len(sure) == 1:
        is_clear = len(named) == 1 or is_set_apart(first)
        return Settled(letter=min(sure), text_letter=min(sure)) if is_clear else None
    run = _RUN.fullmatch(even)
    is_run = run and len(set(run[1])) == len(run[1]) and set(run[1]) <= set(options.letters)
    if is_run or len(named) > 1 or _EVERY.search(even) or len(letters_in(line, options)) > 1:
        return SEVERAL
    is_denial = named or phrases.search("deny", first)
    return None if is_denial else Settled(missing=Missing.NOT_AN_OPTION, decisive=False)


def _by_last_letter(even: str, said: str, options: Options) -> Settled | None:
    """The letter, or else the option's text, at the end of what stands before an announcement."""
    tokens = list(_ALONE.finditer(even))
    found = {str(each[1] or each[2]).upper() for each in tokens}
    named, sure = options.affirmed(said, abbreviated=True)
    if len(found) > 1 or (not found and len(sure) > 1):
        return SEVERAL
    if found and not _PART.search(even[: tokens[0].start()]):
        is_name = _NOUN_AND_LETTER.search(even) and not _LEAD_AND_LETTER.search(even)
        return None if is_name else _with_texts(found.pop(), named, sure, options)
    return Settled(letter=min(sure), text_letter=min(sure)) if len(sure) == len(named) == 1 else None
