"""Rationale -> what is wrong with it: the first reason that applies, in a fixed order, or none.

Patterns of phrases read a text with single spaces and repeat nothing without a bound, or look no further than a few
words around a word, so that they take time in proportion to the text, whatever the text is.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

from pipelines.inference import answers
from pipelines.records import LETTERS, Question, Rationale, Status
from pipelines.verification.config import VerifyConfig

ACCEPTED = "accepted"
_RUN = 6  # words that are compared as one when repetition is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """What a rationale is worth by itself. Fields as in Verdict."""

    status: Status
    reason: str
    letter: str | None
    body: str


def judge(rationale: Rationale, question: Question, config: VerifyConfig) -> Judgement:
    """Judge a rationale that was asked for with the question's own images."""
    body = answers.without_answer(rationale.text)
    if rationale.status in (Status.QUARANTINED, Status.FAILED):
        return Judgement(Status(rationale.status), rationale.error or rationale.status, None, body)
    letter = read_letter(rationale, question)
    reason = _reason(rationale, letter, body, question, config)
    return Judgement(Status.REJECTED if reason else Status.ACCEPTED, reason or ACCEPTED, letter, body)


def read_letter(rationale: Rationale, question: Question) -> str | None:
    """The answer that a rationale gives; None when there is none, or none can be read."""
    is_there = rationale.status == Status.ANSWERED
    return answers.read_letter(rationale.text, question.options) if is_there else None


def words(text: str) -> list[str]:
    """The words of a text, whatever its language and case."""
    return re.findall(r"\w+", text.casefold())


def _reason(
    rationale: Rationale, letter: str | None, body: str, question: Question, config: VerifyConfig
) -> str | None:
    """Why an explained rationale is rejected, if it is; what is cheap to find out comes first."""
    said = words(body)
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("truncated", lambda: rationale.finish_reason != "stop"),
        ("no_answer", lambda: letter is None),
        ("answer_disagrees_with_gold", lambda: letter != question.gold),
        ("no_reasoning", lambda: not body),
        ("too_short", lambda: len(said) < config.min_words),
        ("too_long", lambda: len(said) > config.max_words),
        ("repeats_itself", lambda: repeated_share(said) > config.max_repeated_share),
        ("sees_no_image", lambda: sees_no_image(body)),
        ("cites_caption", lambda: cites_caption(body)),
        ("cites_missing_image", lambda: cites_missing_image(body, len(question.images))),
        ("names_option_letters", lambda: config.options_are_shuffled and names_option_letters(body, question)),
        ("leaks_hint", lambda: leaks_hint(body, hinted=rationale.hinted)),
    )
    return next((reason for reason, applies in checks if applies()), None)


def repeated_share(said: list[str]) -> float:
    """Share of the runs of six words that were there before."""
    runs = len(said) - _RUN + 1
    if runs < 1:
        return 0.0
    return 1 - len(set(zip(*(itertools.islice(said, start, None) for start in range(_RUN)), strict=False))) / runs


_UNMARKED = str.maketrans({"’": "'", "（": "(", "）": ")", "：": ":"} | dict.fromkeys('*_`"“”'))


def _plain(text: str) -> str:
    """A text with single spaces and without marks of emphasis, as all patterns of phrases expect it."""
    return " ".join(text.translate(_UNMARKED).split())


_DOCUMENT = r"(?:article|paper|manuscript|publication|passage|accompanying \w+|authors?)"
_SAYS = r"(?:states?|says?|mentions?|describes?|explains?|notes?|reports?)"
# A legend can be part of a chart, and text can stand in an image: only what must lie beside the image is meant.
_CAPTION = re.compile(
    r"\bcaptions?\b"
    r"|\b(?:figure|fig\.|image)(?:'s)? legend\b|\blegend (?:of|to) the (?:figure|image)\b"
    rf"|\blegend (?:also )?{_SAYS}\b"
    r"|\b(?:described|stated|mentioned|noted|explained|written|given) in the legend\b"
    r"|\b(?:accompanying|surrounding|provided|associated) (?:text|description|article|paper|passage)\b"
    r"|\btext accompanying\b"
    rf"|\b(?:according to|as \w+ (?:in|by)|based on) the {_DOCUMENT}\b"
    r"|\b(?:according to|as \w+ in) the (?:text|description)\b"
    r"(?! (?:in|on|within|inside|at|of|label|over|under|beside)\b)"
    rf"|\bthe {_DOCUMENT} {_SAYS}\b"
)
_CAPTION_WORDS = (
    *("caption", "legend", "text", "description", "article", "paper", "manuscript", "publication", "passage"),
    *("accompanying", "author"),
)


def cites_caption(text: str) -> bool:
    """Whether a text rests on a caption, a legend beside the figure, or an article, which no student is shown."""
    return _finds(_CAPTION, _CAPTION_WORDS, _plain(text).lower())


def _finds(pattern: re.Pattern[str], words: tuple[str, ...], text: str) -> bool:
    """Whether a pattern is found; looked for only where one of the words is that it cannot do without."""
    return any(word in text for word in words) and pattern.search(text) is not None


_IMAGE = r"(?:image|picture|photo|photograph|figure|scan|attachment)s?"
_BLIND = re.compile(
    r"\b(?:can(?:not|'t| not)|unable to|not able to|could(?: not|n't)) (?:\w+ )?(?:see|view|access|open|display)"
    rf" (?:\w+ ){{0,3}}{_IMAGE}\b"
    rf"|\bwithout (?:access to|seeing|being able to see|viewing) (?:\w+ ){{0,3}}{_IMAGE}\b"
    rf"|\b(?:no|any) {_IMAGE} (?:was|were|is|has been|have been) (?:provided|attached|given|shown|visible)\b"
    rf"|\b(?:don't|do not) (?:see|have) (?:\w+ ){{0,3}}{_IMAGE}\b"
)
_BLIND_WORDS = ("image", "picture", "photo", "figure", "scan", "attachment")


def sees_no_image(text: str) -> bool:
    """Whether a text says that no image is seen: what it goes on to say is guessed from the options."""
    return _finds(_BLIND, _BLIND_WORDS, _plain(text).lower())


_COUNTS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_PICTURE = re.compile(r"\b(?:(?P<figure>fig(?:\.|ures?)?)|(?:image|picture|photo(?:graph)?)s?)(?!\w)")
_WINDOW = 32
_IMAGE_ORDINAL = re.compile(rf"\b(?:(?P<word>{'|'.join(_ORDINALS)})|(?P<number>\d{{1,3}})(?:st|nd|rd|th)) $")
_IMAGE_COUNT = re.compile(rf"\b(?:the|these|all) ({'|'.join(_COUNTS)}) $")
_IMAGE_PAIR = re.compile(r"\b(?:both (?:of )?(?:the |these )?|another |the (?:other|previous|preceding) )$")
_UNIT = r"(?:[x×%]|[nmcµμu]m\b|px\b|pixels?\b|days?\b|weeks?\b|months?\b|years?\b|hours?\b|minutes?\b)"
_IMAGE_NUMBER = re.compile(rf" ?(?:no\. ?|number |#)?(\d{{1,3}})(?!\d|\.\d|,\d| ?{_UNIT})(?P<panel>[a-z]?)(?!\w)")
_AND_NUMBER = re.compile(r"(?: and | to | & |, | ?[-–] ?)(\d{1,3})(?!\w)")
_ARTICLE = re.compile(r"\b(?:the|this|an?|each) $")
_PART_OF_ONE = re.compile(r" (?:from|in) the\b")  # "the second image from the left"
_PAIR = 2


def cites_missing_image(text: str, num_images: int) -> bool:
    """Whether a text speaks of an image beyond those that are shown. Panels may well be parts of one."""
    text = _plain(text).lower()
    return any(_least_images(text, found) > num_images for found in _PICTURE.finditer(text))


def _least_images(text: str, picture: re.Match[str]) -> int:
    """How many images there must be for what is said of a picture to make sense."""
    before = text[max(0, picture.start() - _WINDOW) : picture.start()]
    after = text[picture.end() : picture.end() + _WINDOW]
    number = _IMAGE_NUMBER.match(after)
    # "image 3", but "in the image 2 lesions are seen"; a letter names a panel of a figure, and a unit otherwise.
    if number and (picture["figure"] or not (number["panel"] or _ARTICLE.search(before))):
        further = _AND_NUMBER.match(after, number.end()) if picture[0].endswith("s") else None
        return max(int(number[1]), int(further[1]) if further else 0)
    if ordinal := _IMAGE_ORDINAL.search(before):
        place = int(ordinal["number"]) if ordinal["number"] else _ORDINALS.index(ordinal["word"]) + 1
        return 0 if _PART_OF_ONE.match(after) else place
    if picture["figure"]:  # several figures can be numbers
        return 0
    if count := _IMAGE_COUNT.search(before):
        return _COUNTS.index(count[1]) + 1
    return _PAIR if _IMAGE_PAIR.search(before) else 0


# A capital A with a word behind it is an article, but in "A and B", "A or B".
_LETTER_OF_ITS_OWN = re.compile(r"(?<![\w'-])(?:A(?! (?!and\b|or\b)\w)|[B-Z])(?![\w'-])")
_LONE_LETTER = re.compile(r"(?<![\w'-])[A-Z](?![\w'-])")
_OPTION = r"\b(?i:options?|choices?|answers?)"
_LEADS_TO = r"(?: (?i:is|not|letter|choice|therefore|thus|clearly|must|should|would|be)){0,3}"
_OPTION_BEFORE = re.compile(rf"{_OPTION}{_LEADS_TO} ?[('\[]{{0,2}}$")
# A small letter is meant for an option's only beside the word, and an `a` only in brackets.
_SMALL_LETTER = re.compile(r"\b(?:options?|choices?) (?:\([a-z]\)|[b-z](?![\w'-]))", re.IGNORECASE)
_COLON_BEFORE = re.compile(rf"{_OPTION} ?: ?[('\[]{{0,2}}$")
_CLAUSE_BEFORE = re.compile(
    r"(?:[.;:,!?]|\b(?i:so|thus|hence|therefore|that|and|while|but|because|since|than|or|nor|only|neither)) $"
)
_JUDGED_AFTER = re.compile(
    r" (?:is|are|was|were|seems?|looks?|isn't|aren't|(?:would|must|can|cannot|can't|could|may) be)"
    r"(?: (?:not|also|clearly|the|most|more|less|therefore|thus|definitely|probably|certainly|both)){0,4}"
    r" (?:wrong|incorrect|correct|best|answer|unlikely|implausible|plausible|impossible|eliminated|excluded|ruled out"
    r"|right(?! (?!because|since|answer|option|choice|one\b)\w))\b"
)
_CHOSEN_BEFORE = re.compile(
    r"\b(?i:eliminat(?:e|es|ed|ing)|exclud(?:e|es|ed|ing)|rul(?:e|es|ed|ing) out|choos(?:e|es|ing)|chose"
    r"|select(?:s|ed|ing)?|pick(?:s|ed|ing)?) (?:both )?$"
)
_CELL_AFTER = re.compile(r" (?:cells?|lymph\w{0,9})\b")
# What a letter in brackets belongs to when it is no option's.
_LABELLED_BEFORE = re.compile(
    r"\b(?i:panels?|figures?|fig|images?|parts?|arrows?|arrowheads?|label(?:s|ed|led)?|marked|curve|line|point|region"
    r"|area|structure|box)\.? \($"
)


def names_option_letters(text: str, question: Question) -> bool:
    """Whether a text speaks of options by their letters, which mean something else in another order.

    A letter that the question or an option holds itself, such as an arrow's label, counts only beside the word option.
    """
    options = dict(zip(LETTERS, map(_plain, question.options), strict=False))
    told = [_plain(question.text), *options.values()]
    own = {letter for part in told for letter in _LETTER_OF_ITS_OWN.findall(part)}
    text = _plain(text)
    if _SMALL_LETTER.search(text):
        return True
    for letter, before, after in _lone_letters(text):
        if letter not in options:
            continue
        is_article = letter == "A" and re.match(" [a-z]", after)
        if _OPTION_BEFORE.search(before) or (_COLON_BEFORE.search(before) and not is_article):
            return True
        if _starts_with_option(after, options[letter]) or (letter not in own and _means_option(before, after)):
            return True
    return False


def _lone_letters(text: str) -> Iterator[tuple[str, str, str]]:
    """Each capital that stands alone, with a few words before and behind it."""
    for found in _LONE_LETTER.finditer(text):
        # The start of a text is the start of a clause, as behind a full stop.
        before = text[max(0, found.start() - _WINDOW) : found.start()] or ". "
        yield found[0], before, text[found.end() : found.end() + 2 * _WINDOW]


def _starts_with_option(after: str, option: str) -> bool:
    """Whether an option's own text stands behind its letter, as in the question: `B. cast`."""
    marked = re.match(r"[.):] ?", after)
    if marked is None or not option:
        return False
    return after[marked.end() :].lower().startswith(option.lower()[:_WINDOW])


def _means_option(before: str, after: str) -> bool:
    """Whether a letter is judged, is chosen, or stands in brackets without anything that it could label."""
    if before.endswith("(") and after.startswith(")"):
        return _LABELLED_BEFORE.search(before) is None
    if _CLAUSE_BEFORE.search(before) and _JUDGED_AFTER.match(after):
        return True
    return _CHOSEN_BEFORE.search(before) is not None and _CELL_AFTER.match(after) is None


_RIGHT = r"(?:right|correct|true|gold|expected|intended)"
_GIVEN = r"(?:given|provided|stated|supplied|specified|told|revealed)"
_ONE = r"(?:answer|option|choice)(?! (?:choices?|options?|letters?|list)\b)"
_LEAK = re.compile(
    rf"\b{_GIVEN} (?:the )?(?:{_RIGHT} )?{_ONE}\b"
    rf"|\b{_RIGHT} {_ONE} (?:is|was|has been|being)(?: already| explicitly)? {_GIVEN}\b(?! by\b)"
    r"|\b(?:answer key|ground truth|gold(?:en)? answer|the hint(?! of\b)|hint (?:says|states|given|provided|that))\b"
    r"|\b(?:i|we) (?:was|am|were|are|have been|had been) (?:told|informed|given the)\b"
    rf"|\b(?:prompt|user|question|task) (?:says|states|indicates|tells|specifies|confirms) (?:\w+ ){{0,4}}{_RIGHT}\b"
)
_LEAK_WORDS = (
    *("given", "provided", "stated", "supplied", "specified", "told", "revealed", "informed"),
    *("answer key", "ground truth", "gold", "hint", "prompt", "user", "question", "task"),
)
# Without a hint, these are how one speaks of the question itself, or of what was said before.
_LEAK_OF_HINTED = re.compile(
    r"\bas (?:stated|given|told|instructed|mentioned|provided|required)\b|\bhint(?:s|ed)?\b(?! of\b)"
    r"|\b(?:was|were|am|are|been|being|had|has|nobody|one)(?: not)? told\b|\btold (?:me|us|that)\b"
    rf"|\b(?:given|knowing|know|since we know|assuming)(?: that)? the {_RIGHT} {_ONE}\b"
)


def leaks_hint(text: str, *, hinted: bool) -> bool:
    """Whether a text says that the answer was told. A teacher that was told nothing can imagine it was."""
    text = _plain(text).lower()
    return _finds(_LEAK, _LEAK_WORDS, text) or (hinted and _LEAK_OF_HINTED.search(text) is not None)
