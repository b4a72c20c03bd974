"""Rationale -> what is wrong with it: the first reason that applies, in a fixed order, or none.

What is looked for in the words themselves, rule by rule, stands in `phrases.toml`; what needs more than a phrase, in
`conclusions` and `evidence`.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable

from pipelines.inference import answers, sentences
from pipelines.records import LETTERS, Question, Rationale, Status
from pipelines.verification import conclusions, evidence, phrases
from pipelines.verification.config import VerifyConfig
from pipelines.verification.phrases import Rule

ACCEPTED = "accepted"
_WORD = re.compile(r"\w+")
# Chinese and Japanese have no spaces: each character counts as a word.
_WORD_OR_CHARACTER = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RUN = 6  # words that are compared as one when repetition is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    """What a rationale is worth by itself. Fields as in Verdict."""

    status: Status
    reason: str
    rule: str | None
    letter: str | None
    body: str


def judge(rationale: Rationale, question: Question, config: VerifyConfig) -> Judgement:
    """Judge a rationale that was asked for with the question's own images."""
    body = answers.without_answer(rationale.text, question.options)
    if rationale.status in (Status.QUARANTINED, Status.FAILED):
        return Judgement(Status(rationale.status), rationale.error or rationale.status, None, None, body)
    letter = read_letter(rationale, question)
    reason, rule = _reason(rationale, letter, body, question, config)
    return Judgement(Status.REJECTED if reason else Status.ACCEPTED, reason or ACCEPTED, rule, letter, body)


def read_letter(rationale: Rationale, question: Question) -> str | None:
    """The answer that a rationale gives; None when there is none, or none can be read."""
    is_there = rationale.status == Status.ANSWERED
    if not is_there:
        return None
    return answers.read(rationale.text, question.options, finish_reason=rationale.finish_reason).letter


def words(text: str) -> list[str]:
    """The words of a text, whatever its language and case."""
    return (_WORD if text.isascii() else _WORD_OR_CHARACTER).findall(text.casefold())


def _reason(
    rationale: Rationale, letter: str | None, body: str, question: Question, config: VerifyConfig
) -> tuple[str | None, str | None]:
    """Why an explained rationale is rejected, if it is, and by which rule; quick checks come first."""
    read = Body(body)
    said = read.said
    checks: tuple[tuple[str, Callable[[], bool]], ...] = (
        ("truncated", lambda: rationale.finish_reason != "stop"),
        ("no_answer", lambda: letter is None),
        ("answer_disagrees_with_gold", lambda: letter != question.gold),
        ("no_reasoning", lambda: not body),
        ("too_short", lambda: len(said) < config.min_words),
        ("too_long", lambda: len(said) > config.max_words),
        ("repeats_itself", lambda: repeated_share(said) > config.max_repeated_share),
        ("unfinished", lambda: sentences.is_unfinished(body)),
    )
    for reason, applies in checks:
        if applies():
            return reason, None
    broken = broken_rule(read, question, hinted=rationale.hinted, options_are_shuffled=config.options_are_shuffled)
    return (broken.check, broken.id) if broken else (None, None)


def repeated_share(said: list[str]) -> float:
    """Share of the runs of six words that were there before."""
    runs = len(said) - _RUN + 1
    if runs < 1:
        return 0.0
    return 1 - len(set(zip(*(itertools.islice(said, start, None) for start in range(_RUN)), strict=False))) / runs


_MISSING_IMAGE = phrases.around_word("cites_missing_image")
_OPTION_LETTER = phrases.around_word("names_option_letters")
_SOURCES = frozenset({"sees_no_image", "cites_caption", "cites_history"})  # what is looked for first
_NAMES_LETTERS = "names_option_letters"


class Body:
    """A body of reasoning as the rules read it. text: as `phrases.plain` leaves it. lowered: in lower case. sentences:
    of that, each with its words. said: all words."""

    __slots__ = ("lowered", "said", "sentences", "text")

    def __init__(self, body: str) -> None:
        self.text = phrases.plain(body)
        self.lowered = self.text.lower()
        self.sentences = [(sentence, words(sentence)) for sentence in phrases.sentences(self.lowered)]
        self.said = [word for _, own in self.sentences for word in own]


def broken_rule(body: Body, question: Question, *, hinted: bool, options_are_shuffled: bool) -> Rule | None:
    """The first rule that a body of reasoning breaks; its `check` is the reason to reject it.

    hinted: the teacher was told the gold answer. options_are_shuffled: as in
    VerifyConfig.
    """
    text, lowered, said = body.text, body.lowered, body.said
    asked = phrases.plain(" ; ".join((question.text, *question.options))).lower()
    possible = [
        (each, sentence)
        for each, sentence in phrases.PHRASES.possible(body.sentences)
        if hinted >= each.rule.hinted and (options_are_shuffled or each.rule.check != _NAMES_LETTERS)
    ]

    def first(belongs: Callable[[str], bool]) -> Rule | None:
        broken = (e.rule for e, sentence in possible if belongs(e.rule.check) and e.finds(sentence, lowered, asked))
        return next(broken, None)

    return (
        evidence.other_language(text, said, question)
        or first(lambda check: check in _SOURCES)
        or _cites_missing_image(lowered, asked, len(question.images))
        or first(lambda check: check == _NAMES_LETTERS)
        or (_names_option_letter(text, question) if options_are_shuffled else None)
        or first(lambda check: check not in _SOURCES)
        or conclusions.contradiction(text, question.text, question.options, question.gold)
        or evidence.missing(text, said, question)
    )


_PICTURE = re.compile(r"\b(?:fig(?:\.|ures?)?|(?:image|picture|photo(?:graph)?|radiograph|micrograph|x-ray)s?)(?!\w)")


def _cites_missing_image(text: str, asked: str, num_images: int) -> Rule | None:
    """The rule by which a plain text in lower case speaks of an image beyond those that are shown.

    One file may hold several panels, where the question or the text says so.
    """
    for picture in _PICTURE.finditer(text):
        before = text[max(0, picture.start() - phrases.WINDOW) : picture.start()]
        after = text[picture.start() : picture.end() + phrases.WINDOW]
        for each in _MISSING_IMAGE:
            if (numbers := each.found(before, after)) is not None:
                if max(_number(said) for said in numbers.values() if said) > num_images:
                    return None if phrases.shows_several(text, asked) else each.rule
                break
    return None


def _number(said: str) -> int:
    return phrases.NUMBERS[said] if said in phrases.NUMBERS else int(said)


# A capital A with a word behind it is an article, but in "A and B", "A or B".
_LETTER_OF_ITS_OWN = re.compile(r"(?<![\w'-])(?:A(?! (?!and\b|or\b)\w)|[B-Z])(?![\w'-])")
_LONE_LETTER = re.compile(r"(?<![\w'-])[A-Z](?![\w'-])")
_MARKED = re.compile(r".[.):] ?")
_OPTION_BEHIND_LETTER = Rule(
    id="option_behind_letter",
    check="names_option_letters",
    example="the letter with a mark, and the text of its option, as in the question: `B. cast`",
)


def _names_option_letter(text: str, question: Question) -> Rule | None:
    """The rule by which a plain text speaks of options by their letters, where no word such as `option` is beside."""
    options = dict(zip(LETTERS, map(phrases.plain, question.options), strict=False))
    held = [phrases.plain(question.text), *options.values()]
    own = {letter for part in held for letter in _LETTER_OF_ITS_OWN.findall(part)}
    for found in _LONE_LETTER.finditer(text):
        letter = found[0]
        if letter not in options:
            continue
        # The start of a text is the start of a clause, as behind a full stop.
        before = text[max(0, found.start() - phrases.WINDOW) : found.start()] or ". "
        after = text[found.start() : found.end() + 2 * phrases.WINDOW]
        if _starts_with_option(after, options[letter]):
            return _OPTION_BEHIND_LETTER
        for each in _OPTION_LETTER:
            if (each.rule.own_letters or letter not in own) and each.found(before, after) is not None:
                return each.rule
    return None


def _starts_with_option(after: str, option: str) -> bool:
    """Whether a letter's own option stands behind it. after: begins with the letter."""
    marked = _MARKED.match(after)
    if marked is None or not option:
        return False
    return after[marked.end() :].lower().startswith(option.lower()[: phrases.WINDOW])
