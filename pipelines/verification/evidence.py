"""A body of reasoning and its question -> the rule by which it holds nothing that was seen, or none of the question's
language."""

import re
from collections.abc import Iterable, Sequence

from pipelines.records import Question
from pipelines.verification import word_lists
from pipelines.verification.phrases import Rule

RESTATES = Rule(
    id="restates_question", check="no_evidence", example="the words of the question and its options, and no others"
)
NOTHING_SEEN = Rule(id="nothing_seen", check="no_evidence", example="Effusions are a common finding in the elderly.")
OTHER_SCRIPT = Rule(id="other_script", check="other_language", example="右肺 in answer to a question in English")
OTHER_WORDS = Rule(id="other_words", check="other_language", example="Das Bild ist hell. in answer to one in English")
RULES = (RESTATES, NOTHING_SEEN, OTHER_SCRIPT, OTHER_WORDS)

_LEAST_NEW = 2  # words that neither the question nor its options hold, nor any empty sentence
_ENOUGH_SEEN = 8  # different words of what is seen, that need no closer look
_FOREIGN_LETTER = re.compile(r"[\u0370-\u1eff\u2c00-\ud7ff\uf900-\ufdff\ufe70-\uff60]")
_QUOTED = re.compile(r"[\"'“”‘’「」『』«»][^\"'“”‘’「」『』«»]{1,40}[\"'“”‘’「」『』«»]")
_ENOUGH_SAID = 8  # words by which a language is known
_MOST_FOREIGN = 3  # letters of another script: Greek letters, a sign in the image
_CLAUSE = re.compile(r"[.;:,!?\n]+(?!\d)")
_WORD = re.compile(r"[^\W\d_]+")
_NUMBERED = re.compile(r"\b(?:step|option|question|choice) \d+")
_FORM = re.compile(r"(?:hyper|hypo|iso)\w+|\w+(?:like|shaped|oid|ular|form)$|\d")


def missing(body: str, said: Sequence[str], question: Question) -> Rule | None:
    """The rule by which a body shows nothing that was seen, if one does.

    said: the body's words in lower case. Only English is judged so.
    """
    words = frozenset(said)
    if not _is_english(said):
        return None
    held = frozenset(_WORD.findall(" ".join((question.text, *question.options)).lower()))
    held |= {f"{word}s" for word in held}
    new = words - held - word_lists.HOLLOW
    if len(new) < _LEAST_NEW:
        return RESTATES
    if len(new & word_lists.SEEN) >= _ENOUGH_SEEN:
        return None
    return None if any(_is_seen(clause, held) for clause in _CLAUSE.split(body.lower())) else NOTHING_SEEN


def _is_seen(clause: str, held: frozenset[str]) -> bool:
    """Whether a clause tells of something seen that its question does not tell already."""
    words = frozenset(re.findall(r"\w+", _NUMBERED.sub(" ", clause))) - held
    if word_lists.SEEN.isdisjoint(words) and not any(map(_FORM.match, words)):
        return False
    return not word_lists.GENERAL.search(clause)


def other_language(body: str, said: Sequence[str], question: Question) -> Rule | None:
    """The rule by which a body is in another script or language than its question, if one is."""
    asked = " ".join((question.text, *question.options))
    num_foreign = 0 if body.isascii() else len(_FOREIGN_LETTER.findall(_QUOTED.sub("", body)))
    if num_foreign > _MOST_FOREIGN and not _FOREIGN_LETTER.search(asked):
        return OTHER_SCRIPT
    if len(said) >= _ENOUGH_SAID and not _is_english(said):
        foreign = sum(word in word_lists.FOREIGN for word in said)
        if foreign > len(said) / 6 and _is_english(_WORD.findall(asked.lower())):
            return OTHER_WORDS
    return None


def _is_english(said: Iterable[str]) -> bool:
    """Whether a text has as many of the little words as English has, and more than of other languages'."""
    words = frozenset(said)
    common = len(words & word_lists.COMMON)
    return common >= max(1, len(words) / 10) and common > len(words & word_lists.FOREIGN)
