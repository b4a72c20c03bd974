"""What is said where an answer stands -> the option that it gives, or why it gives none."""

import re

from pipelines.inference.answers import phrases, plain
from pipelines.inference.answers.options import Mention, Options
from pipelines.inference.answers.reading import Missing, Settled

_MOST = 400  # characters behind an announcement that are read
_EVERY_LANGUAGE = tuple(phrases.ALL)
_LEAD, _AND = phrases.either("lead", _EVERY_LANGUAGE), phrases.either("and", _EVERY_LANGUAGE)
_LEADING = re.compile(rf"[\s:=>|,.\-]*(?:{_LEAD}[\s:=>|,\-]*){{0,5}}")
_HEAD = re.compile(r"(?P<open>[(\[<{\"'] ?|)(?P<letter>[A-Za-z])(?P<marks> {0,16}[)\]>}\"'.:,;!]{0,4})(?P<rest>.*)", re.DOTALL)
_CONNECTS = re.compile(
    r"\s*(?:$|\n|[(\[\-|=/&+、，,;。？?]|(?:because|since|as|due|given|for|based|which|where|while|with|is|are|was|were|"
    r"the|correct|right|best|can|does|would|could|in|on|by|from|when|instead|rather|not|over|seems|appears|remains|fits|matches|has|"
    r"weil|da|denn|ist|car|parce|puisque|est|porque|ya|pois|por|es|é|perché|poiché|è|потому|так|want|omdat)\b"
    rf"|{_AND}|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3])",
    re.IGNORECASE,
)
_ALSO = re.compile(
    rf"(?:(?:^|[\s)\]]){_AND}|[/&+、]|^ ?, ?)\s*(?:{_LEAD}\s*){{0,2}}[(\[\"' ]{{0,3}}(?:([B-HJ-Z])(?![A-Za-z0-9'\-])|([AI])(?=[)\].:,;\"'、。]|\s*$|\s*\(|/| (?:is|are|could|would|may|might|both|fit|seem|und|and|or|et|y|e)\b|[\u3040-\u9fff]))",
)
_HEDGED_TOO = re.compile(r"(?:maybe|perhaps|possibly|or|also|alternatively),? (?:even |option |choice )?[(\[\"']?([A-Z])(?=[)\].:,;\"']|\s*$)")
_LETTER_BESIDE = re.compile(r"[(\[](?:(?:option|choice|answer) )?([A-Za-z])[)\]]", re.IGNORECASE)
_INSTEAD = re.compile(r"\W{0,4}not\b[^.;\n]{1,80}?(?:,? but(?: rather)?\b|; ?(?:it is|it's|rather))\s*", re.IGNORECASE)
_LETTER_TOKEN = re.compile(r"(?<![\w'.\-])(?:[(\[\"']([A-Za-z])[)\]\"']|([A-Z])(?=\s*$|[).:,;\]\"']|\s+\(|\s+(?:and|or|nor)\b))")
_PART = re.compile(r"\b(?:panels?|figs?(?:ure)?s?\.?|images?|subfigures?|insets?|rows?|columns?|parts?) *[(\[]?$", re.IGNORECASE)
_EXPLAINS = re.compile(r"\b(?:because|since|as|due to|given|for|while|whereas|which|weil|denn|car|porque|perché|pois)\b|[.!?](?=\s|$)|[;\n。]")
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[;\n。？]")
_NAMING = re.compile(
    r"[\s\W]*(?:(?:(?:it|this|that|which|the (?:image|scan|picture|figure|finding|answer|correct answer|option))(?: clearly| most likely)? "
    r"(?:is|shows|was|would be|means|corresponds to|states|represents)|clearly|obviously|definitely|i\.e\.|namely|meaning|representing|option|that is|the|an?)[\s:,]+){0,4}[\s\W]*$",
    re.IGNORECASE,
)
_NAMED_ONLY = re.compile(r"\W*$|\s*[.,;:!)\]\n(]|\s*(?:because|since|as|due|given|is the|is correct|which|for|based|-)(?!\w)", re.IGNORECASE)
_IS_NUMBER = re.compile(r"[<>≤≥~+\-\u2212\s$€£(]*\d")
_NUMBER = re.compile(r"(?<![\w.])\d")
_EVERY = re.compile(r"\b(?:all|both|any|each|none) (?:of (?:them|the above|these|the options)|options|the above)|\bmultiple (?:options|answers)|\bseveral (?:options|answers)", re.IGNORECASE)
_PAIR = re.compile(r"[^\w]*([A-Z]{2,5})\W*")
_CONDITION = re.compile(r"\b(?:if|unless|whether|wenn|falls|si|se)\b", re.IGNORECASE)


def _lead(even: str) -> re.Match[str] | None:
    """Words and marks that may stand before an option's letter."""
    return _LEADING.match(even.lower())


def settle(said: str, options: Options, *, letter_only: bool = False) -> Settled | None:
    """What is said behind an announcement, as the option that it gives; None where it says nothing about options.

    letter_only: a weak announcement, behind which an option's text is none.
    """
    said = said[: max(_MOST, 2 * options.longest)]
    if instead := _INSTEAD.match(plain.even(said)):
        said = said[instead.end() :]
    even = plain.even(said)
    if letter_only and re.match(r"\s*[a-z]", even):
        return None
    sentence = even.strip(" \n:")
    if (settled := _as_whole(said, options)) is not None:
        return settled
    if not sentence:
        return None
    lead = _lead(even)
    start = lead.end() if lead else 0
    if (settled := _as_whole(said[start:], options)) is not None:
        return settled
    found = _HEAD.match(even, start)
    if found and _is_letter(found, said, options):
        return _by_letter(found, said, options)
    if letter_only:
        return None
    return by_letter_beside(said, options) or _by_text(said, even, options)


def _as_whole(said: str, options: Options) -> Settled | None:
    whole = options.whole(said)
    if whole is None:
        return None
    if len(whole.letters) == 1:
        return Settled(letter=next(iter(whole.letters)), text_letter=whole.text_letter)
    return Settled(missing=Missing.SEVERAL if whole.letters else Missing.CONTRADICTION, text_letter=whole.text_letter)


def _is_letter(found: re.Match[str], said: str, options: Options) -> bool:
    """Whether a letter where an answer begins is an option's letter, and not an article, an initial, or part of a word."""
    letter, marks, rest = found["letter"], found["marks"].strip(), found["rest"]
    behind = said[found.end("letter") :]
    if re.match(r"[A-Za-z0-9'’+]|[-.&/][A-Za-z0-9]|[-.][\u0370-\u03ff]", behind) and not re.match(r"/[A-Z](?![A-Za-z])|\.[A-Z][a-z]", behind):
        return False
    bracketed = bool(found["open"].strip()) and bool(re.match(r"[)\]>}\"']", marks))
    own = _named_first(rest, letter.upper(), options) == letter.upper()
    if letter.islower() and not bracketed:
        return own if marks else not re.search(r"\w", rest)
    if bracketed or own:
        return True
    if not marks:
        return bool(_CONNECTS.match(rest))
    is_species = marks == "." and re.match(r" ?[a-z]{3,}", rest) and not _CONNECTS.match(rest)
    return not is_species


def _named_first(rest: str, letter: str, options: Options) -> str | None:
    """The letter of the option whose text comes first behind a letter, if one does."""
    named = _first_mention(rest, letter, options)
    return named.letter if named else None


def _first_mention(rest: str, letter: str, options: Options) -> Mention | None:
    spelled = options.spelled(rest[:_MOST])
    mentions = options.mentions(spelled, abbreviated=True)
    if not mentions or not _NAMING.match(spelled[: mentions[0].start]):
        return None
    first = mentions[0]
    if first.letter == letter:
        return first
    return first if _NAMED_ONLY.match(spelled[first.end :]) else None


def _by_letter(found: re.Match[str], said: str, options: Options) -> Settled | None:
    """The option of a letter that begins an answer, unless what stands behind it says otherwise."""
    letter, rest = found["letter"].upper(), found["rest"]
    raw = said[found.start("rest") :]
    marks = found["marks"].strip()
    clause = found["marks"] + rest
    head = rest if "." not in marks else ""
    first_sentence = _cut(head, _SENTENCE)
    if head and (_denied_behind(first_sentence) or _CONDITION.search(_cut(head, re.compile(r"[.,;!\n]")))):
        return None
    if _cut(clause, re.compile(r"[.!;\n]")).rstrip().endswith("?"):
        return None
    if letter not in options.letters:
        return Settled(missing=Missing.NOT_AN_OPTION)
    if _others(letter, clause, raw, options):
        return Settled(missing=Missing.SEVERAL)
    named = _first_mention(raw, letter, options)
    if named and named.letter != letter:
        return Settled(missing=Missing.CONTRADICTION, text_letter=named.letter)
    if named is None and _is_other_number(letter, raw, options, at_start=True):
        return Settled(missing=Missing.CONTRADICTION)
    return Settled(letter=letter, text_letter=letter if named else None)


def _cut(text: str, at: re.Pattern[str]) -> str:
    found = at.search(text)
    return text[: found.start() + (found[0] == "?")] if found else text


def _denied_behind(sentence: str) -> bool:
    """Whether a sentence that begins with a letter says that it is wrong: `B is not right`, `B can be excluded`."""
    verb = re.match(r"\s*(?:\([^)]{0,80}\)|\w+){0,1}?\s*(?:is|are|was|were|can|cannot|does|doesn't|isn't|would|seems|appears|ist|est|es|é|è)\b", sentence)
    if re.match(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]", sentence):
        return phrases.search("deny", sentence[:40]) is not None
    return bool(verb and phrases.search("deny", sentence[: 120]))


def _others(letter: str, clause: str, raw: str, options: Options) -> bool:
    """Whether the clause that begins with a letter gives another one, too."""
    is_sentence = clause.lstrip(" )]\"'").startswith(".")
    clause = clause.lstrip(" )]\"'.:")
    if is_sentence and _named_first(raw, letter, options) != letter:
        return False
    clause = _cut(clause, _EXPLAINS)
    own = options.text_of(letter)
    clause = clause.replace(own, " ") if len(own) > 1 else clause
    for found in (*_ALSO.finditer(clause), *_HEDGED_TOO.finditer(clause)):
        other = next(filter(None, found.groups()))
        before = clause[max(0, found.start() - 24) : found.end() - 1]
        if other != letter and other in options.letters and not phrases.search("deny", before):
            return True
    return False


def _is_other_number(letter: str, said: str, options: Options, *, at_start: bool = False) -> bool:
    """Whether a letter's option is a number and another number is given."""
    if not _IS_NUMBER.match(options.text_of(letter)):
        return False
    return bool(_IS_NUMBER.match(said) if at_start else _NUMBER.search(said))


def by_letter_beside(said: str, options: Options) -> Settled | None:
    """The one letter in brackets, as in `what it shows (B)`, unless it is denied or names a part of a picture."""
    line = _cut(plain.even(said), re.compile(r"\n"))
    tokens = list(_LETTER_BESIDE.finditer(line))
    if not tokens:
        return None
    named, sure = options.affirmed(said[: len(line)], abbreviated=True)
    kept = []
    for each in tokens:
        before = line[: each.start()]
        beside = options.spelled(said[: each.start()])
        for mention in reversed(options.mentions(beside, abbreviated=True)):
            beside = beside[: mention.start] + beside[mention.end :]
        clause = re.split(r"[.;!?]\s|, (?:and|but)? ?(?=not )", beside)[-1]
        if _PART.search(before):
            return None
        if not (phrases.search("deny", clause) or phrases.search("open", clause)):
            kept.append(each[1].upper())
    letters = set(kept)
    if len(letters) > 1:
        return Settled(missing=Missing.SEVERAL)
    if not letters:
        return None
    letter = letters.pop()
    if letter not in options.letters:
        return Settled(missing=Missing.NOT_AN_OPTION)
    if (sure or named) and letter not in named:
        return Settled(missing=Missing.CONTRADICTION, text_letter=next(iter(sure)) if len(sure) == 1 else None)
    if letter not in named and _is_other_number(letter, said[: len(line)], options):
        return Settled(missing=Missing.CONTRADICTION)
    return Settled(letter=letter, text_letter=letter if letter in sure else None)


def _by_text(said: str, even: str, options: Options) -> Settled | None:
    """The option whose text is given without a letter."""
    if refuses(_cut(even, re.compile(r"\n"))):
        return Settled(missing=Missing.REFUSAL)
    pair = _PAIR.fullmatch(even)
    if pair and len(set(pair[1])) == len(pair[1]) and set(pair[1]) <= set(options.letters):
        return Settled(missing=Missing.SEVERAL)
    first = said[: len(_cut(even, _SENTENCE_OF_TEXT))]
    named, sure = options.affirmed(first, abbreviated=True)
    if len(sure) == 1 and len(named) == 1:
        return Settled(letter=min(sure), text_letter=min(sure))
    if len(sure) == 1 and len(named) > 1:
        return Settled(letter=min(sure), text_letter=min(sure)) if is_set_apart(first) else None
    if len(named) > 1 or _EVERY.search(even):
        return Settled(missing=Missing.SEVERAL)
    letters = {each[1] or each[2] for each in _LETTER_TOKEN.finditer(_cut(even, re.compile(r"\n")))}
    if len(letters) > 1 and letters <= set(options.letters):
        return Settled(missing=Missing.SEVERAL)
    return None if named else Settled(missing=Missing.NOT_AN_OPTION, decisive=False)


_SENTENCE_OF_TEXT = re.compile(r"[.!?](?=\s+[A-Z])|\n")


def is_set_apart(text: str) -> bool:
    """Whether a text gives one option and sets another against it."""
    return bool(re.search(r"\b(?:not|rather than|instead of|unlike|as opposed to)\b", text))


def settle_before(said: str, options: Options) -> Settled | None:
    """What stands before words such as `is the right answer`, as the option that it gives."""
    even = plain.even(said)
    if phrases.search("deny", even) and options.whole(said) is None:
        even_rest = re.split(r"[,;:]|\b(?:so|but|hence|therefore|thus|while|whereas|because)\b", even)[-1]
        said, even = said[len(even) - len(even_rest) :], even_rest
        if phrases.search("deny", even):
            return None
    lead = _lead(even)
    bare = said[lead.end() if lead else 0 :].strip(" ,;")
    if (settled := _as_whole(bare, options)) is not None:
        return settled
    last = re.split(r"[,;:]\s|\b(?:so|but|hence|therefore|thus|while|whereas|that|believe|think)\b", even)[-1]
    for part in (even, last):
        part_said = said[len(even) - len(part) :]
        lead = _lead(part)
        head = _HEAD.match(part, lead.end() if lead else 0)
        if head and (head["letter"].isupper() or head["open"].strip()) and _is_letter(head, part_said, options):
            return _by_letter(head, part_said, options)
    tokens = [each[1] or each[2] for each in _LETTER_TOKEN.finditer(last)]
    letters = {each.upper() for each in tokens}
    if len(letters) > 1:
        return Settled(missing=Missing.SEVERAL)
    named, sure = options.affirmed(last if last == even else said[len(even) - len(last) :], abbreviated=True)
    if letters and not _PART.search(last[: last.rfind(tokens[0])]):
        letter = letters.pop()
        if re.search(r"[A-Za-z]{3,} ?[A-Z]\W*$", last) and not re.search(rf"(?:{_LEAD}|{_AND}|only|given|remaining) ?[(\[]?[A-Z]\W*$", last, re.I):
            return None  # `vitamin B is right`
        if letter not in options.letters:
            return Settled(missing=Missing.NOT_AN_OPTION)
        if named and letter not in named:
            return Settled(missing=Missing.CONTRADICTION, text_letter=next(iter(sure)) if len(sure) == 1 else None)
        return Settled(letter=letter, text_letter=letter if letter in sure else None)
    if len(sure) == 1 and len(named) == 1:
        return Settled(letter=min(sure), text_letter=min(sure))
    return Settled(missing=Missing.SEVERAL) if len(sure) > 1 else None


def letters_in(even: str, options: Options) -> set[str]:
    """The letters of options that stand alone in a text."""
    found = {str(each[1] or each[2]).upper() for each in _LETTER_TOKEN.finditer(even)}
    return found & set(options.letters)


def several() -> Settled:
    """What gives more than one option."""
    return Settled(missing=Missing.SEVERAL)


def refuses(even: str) -> bool:
    """Whether a text says that it gives no answer, or that it sees no image."""
    return phrases.search("refuse", even) is not None


def refusal_place(even: str) -> int:
    """Where a text first says so; -1 where it does not."""
    found = phrases.search("refuse", even)
    return found.start() if found else -1
