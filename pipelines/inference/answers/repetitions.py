"""Reasoning without its final answer -> the same without sentences at its end that only give that answer once more."""

import re

MOST = 64  # at the end of a text
LONGEST = 400  # characters of one of them
SHORT = 5  # words of a sentence that may be the end of an announcement before it
_WORD = re.compile(r"[^\W_]+")
# Words that announce an answer and say nothing about what is seen, nor where it was known from.
_EMPTY = frozenset(
    """
    a accordingly accurate all am among an analysis and answer answers appropriate are based be best better boxed by
    can choice choices choose chosen clearly conclude conclusion confidently consequently considering correct
    correctly definitely evidence features final finally findings follows from go hence here i image images in is it
    its json letter likely list listed mathbf mathrm matches most must my observations of on option options overall
    pick proper question reasoning response result right select selected should so solution suitable summary text
    textbf that the therefore these this those thus to was we which will with would
    also antwort daher damit deshalb die folglich ist lautet richtig richtige somit
    ainsi bonne donc est la les par réponse
    correcta es la lo por respuesta tanto
    a correta é isso logo portanto resposta
    corretta giusta la pertanto quindi risposta è
    """.split()  # noqa: SIM905 - a list of them would take a page
)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{1,12}[a-z]?")  # `答案是b`: a clause as one word


def may_be_one(sentence: str, option: str, letter: str) -> bool:
    """Whether a sentence has a word of the option, or its letter; most have not, and need not be read."""
    return not sentence.isascii() or not {*_words(option), letter.lower()}.isdisjoint(_words(sentence))


def is_one(cut: str, option: str, letter: str) -> bool:
    """Whether a part of a text gives the answer and nothing else. option, letter: of the answer."""
    empty = {*_words(option), letter.lower()} | _EMPTY
    others = [word for word in _words(cut) if word not in empty]
    return len(cut) <= LONGEST and len(others) <= 1 and all(map(_UNSPACED.fullmatch, others))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
