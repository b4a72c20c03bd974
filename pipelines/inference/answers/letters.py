"""A letter where an answer begins -> whether it is an option's, and what stands behind it."""

import re

from pipelines.inference.answers import phrases
from pipelines.inference.answers.options import Mention, Options
from pipelines.inference.answers.reading import Missing, Settled

_MOST = 400  # characters behind a letter that are read
_CJK = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]"
LEAD, AND = phrases.either("lead", phrases.ALL), phrases.either("and", phrases.ALL)
_LEADING = re.compile(rf"[\s:=>|,.\-]*(?:{LEAD}[\s:=>|,\-]*){{0,5}}")
_HEAD = re.compile(
    r"(?P<open>[(\[<{\"'] ?|)(?P<letter>[A-Za-z])(?P<marks> {0,16}[)\]>}\"'.:,;!]{0,4})(?P<rest>.*)", re.DOTALL
)
_IN_A_WORD = re.compile(r"[A-Za-z0-9'’+]|[-.&/][A-Za-z0-9]|[-.][\u0370-\u03ff]")
_BESIDE_ANOTHER = re.compile(r"/[A-Z](?![A-Za-z])|\.[A-Z][a-z]")  # `A/B`, `B.Text`
_CLOSES = re.compile(r"[)\]>}\"']")
# What goes on behind a letter without a mark. Behind an article or an initial goes a noun.
_CONNECTS = re.compile(
    r"\s*(?:$|\n|[(\[\-|=/&+、，,;。？?]|(?:because|since|as|due|given|for|based|which|where|while|with|is|are|was|were|"
    r"the|correct|right|best|can|does|would|could|in|on|by|from|when|instead|rather|not|over|seems|appears|remains|"
    r"fits|matches|has|weil|da|denn|ist|car|parce|puisque|est|porque|ya|pois|por|es|é|perché|poiché|è|потому|так|want|"
    rf"omdat)\b|{AND}|{_CJK})",
    re.IGNORECASE,
)
_SPECIES = re.compile(r" ?[a-z]{3,}")  # behind `E.`
_ALSO = re.compile(
    rf"(?:(?:^|[\s)\]]){AND}|[/&+、]|^ ?[,;] ?)\s*(?:{LEAD}\s*){{0,2}}[(\[\"' ]{{0,3}}"
    r"(?:([B-HJ-Z])(?![A-Za-z0-9'\-])|([AI])"
    r"(?=[)\].:,;\"'、。]|\s*$|\s*\(|/| (?:is|are|could|would|may|might|both|fit|seem|und|and|or|et|y|e)\b"
    r"|[\u3040-\u9fff]))"
)
_PERHAPS = re.compile(
    r"(?:maybe|perhaps|possibly|or|also|alternatively),? (?:even |option |choice )?"
    r"[(\[\"']?([A-Z])(?=[)\].:,;\"']|\s*$)"
)
_EXPLAINS = re.compile(
    r"\b(?:because|since|as|due to|given|for|while|whereas|which|weil|denn|car|porque|perché|pois)\b"
    r"|[.!?](?=\s|$)|[;\n。]"
)
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[;\n。？]")
_CLAUSE = re.compile(r"[.,;!\n]")
_VERB = re.compile(
    r"\s*(?:\([^)]{0,80}\)|\w+){0,1}?\s*"
    r"(?:is|are|was|were|can|cannot|does|doesn't|isn't|would|seems|appears|ist|est|es|é|è)\b"
)
_CONDITION = re.compile(r"\b(?:if|unless|whether|wenn|falls|si|se)\b", re.IGNORECASE)
_NAMING = re.compile(
    r"[\s\W]*(?:(?:(?:it|this|that|which|the (?:image|scan|picture|figure|finding|answer|correct answer|option))"
    r"(?: clearly| most likely)? (?:is|shows|was|would be|means|corresponds to|states|represents)|clearly|obviously|"
    r"definitely|i\.e\.|namely|meaning|representing|option|that is|the|an?)[\s:,]+){0,4}[\s\W]*$",
    re.IGNORECASE,
)
_NAMED_ONLY = re.compile(
    r"\W*$|\s*[.,;:!)\]\n(]|\s*(?:because|since|as|due|given|is the|is correct|which|for|based|-)(?!\w)", re.IGNORECASE
)
_IS_NUMBER = re.compile(r"[<>≤≥~+\-\u2212\s$€£(]*\d")


def after_lead(even: str) -> int:
    """Where the words and marks end that may stand before an option's letter."""
    found = _LEADING.match(even.lower())
    return found.end() if found else 0


def at(even: str, place: int, said: str, options: Options) -> re.Match[str] | None:
    """The option's letter at a place, with its marks and what stands behind it; None where an article, an initial, or
    part of a word stands there."""
    found = _HEAD.match(even, place)
    if found is None:
        return None
    letter, marks, rest = found["letter"], found["marks"].strip(), found["rest"]
    behind = said[found.end("letter") :]
    if _IN_A_WORD.match(behind) and not _BESIDE_ANOTHER.match(behind):
        return None
    is_bracketed = bool(found["open"].strip()) and bool(_CLOSES.match(marks))
    is_own = _named_first(rest, letter.upper(), options) == letter.upper()
    if letter.islower() and not is_bracketed:
        is_letter = is_own if marks else not re.search(r"\w", rest)
    elif marks:
        is_letter = is_bracketed or is_own or marks != "." or not _SPECIES.match(rest) or bool(_CONNECTS.match(rest))
    else:
        is_letter = is_own or bool(_CONNECTS.match(rest))
    return found if is_letter else None


def settle(found: re.Match[str], said: str, options: Options) -> Settled | None:
    """The option of a letter that begins an answer, unless what stands behind it says otherwise."""
    letter = found["letter"].upper()
    raw = said[found.start("rest") :]
    clause = found["marks"] + found["rest"]
    same_sentence = "" if "." in found["marks"] else found["rest"]
    is_open = _CONDITION.search(cut(same_sentence, _CLAUSE)) or cut(clause, _CLAUSE).rstrip().endswith("?")
    if is_open or _is_denied(cut(same_sentence, _SENTENCE)):
        return None
    if letter not in options.letters:
        return Settled(missing=Missing.NOT_AN_OPTION)
    named = _first_mention(raw, letter, options)
    if _gives_another(letter, clause, named, options) or options.lists(said[found.start() :][:_MOST]):
        return Settled(missing=Missing.SEVERAL)
    if named and named.letter != letter:
        return Settled(missing=Missing.CONTRADICTION, text_letter=named.letter)
    if named is None and is_number(options.text_of(letter)) and is_number(raw):
        return Settled(missing=Missing.CONTRADICTION)
    return Settled(letter=letter, text_letter=letter if named else None)


def cut(text: str, end: re.Pattern[str]) -> str:
    """A text up to where a pattern is found; a question mark is kept."""
    found = end.search(text)
    return text[: found.start() + (found[0] == "?")] if found else text


def is_number(text: str) -> bool:
    """Whether a text begins with a number."""
    return _IS_NUMBER.match(text) is not None


def _named_first(rest: str, letter: str, options: Options) -> str | None:
    named = _first_mention(rest, letter, options)
    return named.letter if named else None


def _first_mention(rest: str, letter: str, options: Options) -> Mention | None:
    """The option whose text comes first behind a letter, if one does: its own, or another's and nothing else."""
    spelled = options.spelled(rest[:_MOST])
    mentions = options.mentions(spelled, abbreviated=True)
    if not mentions or not _NAMING.match(spelled[: mentions[0].start]):
        return None
    first = mentions[0]
    return first if first.letter == letter or _NAMED_ONLY.match(spelled[first.end :]) else None


def _is_denied(sentence: str) -> bool:
    """Whether a sentence that begins with a letter says that it is wrong: `B is not right`, `B can be excluded`."""
    if re.match(_CJK, sentence):
        return phrases.search("deny", sentence[:40]) is not None
    return bool(_VERB.match(sentence) and phrases.search("deny", sentence[:120]))


def _gives_another(letter: str, clause: str, named: Mention | None, options: Options) -> bool:
    """Whether the clause that begins with a letter gives another one, too."""
    is_next_sentence = clause.lstrip(" )]\"'").startswith(".")
    if is_next_sentence and (named is None or named.letter != letter):
        return False
    own = options.text_of(letter)
    clause = clause.lstrip(" )]\"'.:")
    clause = clause[:1] + cut(clause[1:], _EXPLAINS)
    clause = clause.replace(own, " ") if len(own) > 1 else clause
    for found in (*_ALSO.finditer(clause), *_PERHAPS.finditer(clause)):
        other = next(filter(None, found.groups()))
        before = clause[max(0, found.start() - 24) : found.end() - 1]
        if other != letter and other in options.letters and not phrases.search("deny", before):
            return True
    return False
