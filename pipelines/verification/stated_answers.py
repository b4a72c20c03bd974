"""A body of reasoning -> whether it says another letter, or another count, than its answer line."""

import re

from pipelines.records import LETTERS
from pipelines.verification import word_lists

_BY_LETTER = re.compile(
    r"\b(?:options?|choices?|answers?) (?:is |must be |should be |would be )?[\"'(\[]?([A-Z])\b[\"')\]]? (?:is"
    r"|must be|has to be|"
    r"would be|fits|matches|describes)(?: (?:clearly|therefore|thus|the|most|definitely|best)){0,3} "
    r"(?:right|correct|best|answer|true|likely|one|option|appropriate|accurate|choice)\b"
    r"|\b(?:answer|option|choice) (?:here )?(?:is|must be|should be|has to be|:) ?(?:option "
    r"|choice )?[\"'(\[]?([A-Z])\b(?![\w'-]| [a-z])"
    r"|\b(?i:so|thus|therefore|hence|conclude|choose|select|pick|go with|confirms?|supports?|favou?rs?|suggests?"
    r"|points? to|"
    r"corresponds? to|indicates?|matches|leaves|leaving)(?: that| only| to| with|,)? (?:it (?:is"
    r"|must be) )?(?:options?|choice|answer) "
    r"[\"'(\[]?([A-Z])\b"
    r"|(?:[.;,] |^|\b(?i:so|thus|therefore|hence),? )\(?([B-Z])\)? (?:is|must be)(?: (?:clearly|therefore"
    r"|thus)){0,2} (?:the )?"
    r"(?:right|correct|best)(?: (?:answer|option|choice|one))?(?=[.,;]|$)"
)
_DENIED_LETTER = re.compile(
    r"\b(?:not|no|neither|nor|cannot|than|unlike|if|eliminates?|excludes?|rules? out|wrong)\b[^.;]{0,30}$"
    r"|n't [^.;]{0,20}$"
)
_NAMED_LETTER = re.compile(
    r"(?<![\w'-])[\"'(]?([A-Z])[\"')]?(?:[.:)=]| is| =| means| stands for| refers to) (?:the |an? )?"
)


# A capital A before a word is an article, but for "A is".
_LONE_LETTER = re.compile(
    r"(?<![\w'-])(?:[B-Z]|A(?! (?!is\b|and\b|or\b|means\b|must\b|stands\b|refers\b)[a-z]))(?![\w'-])"
)
_SHORTEST = 3  # characters of an option's text that are compared


def other_letter(body: str, options: tuple[str, ...], gold: str, text: str) -> bool:
    """Whether the last option that a body calls right by its letter is another, or a letter is given another's text."""
    if not _LONE_LETTER.search(body):
        return False
    letters = LETTERS[: len(options)]
    right = [
        letter
        for found in _BY_LETTER.finditer(body)
        if (letter := next(filter(None, found.groups()))) in letters
        and not _DENIED_LETTER.search(body[max(0, found.start() - 40) : found.start()])
    ]
    if right and right[-1] != gold:
        return True
    lowered = [option.strip().lower() for option in options]
    shorter = [option.partition(" (")[0] for option in lowered]
    for found in _NAMED_LETTER.finditer(body):
        if found[1] not in letters or any(f" {found[1]} " in f" {option} " for option in (*options, text)):
            continue
        behind = body[found.end() : found.end() + 200].lower()
        own = LETTERS.index(found[1])
        named = [place for place, each in enumerate(shorter) if len(each) >= _SHORTEST and behind.startswith(each)]
        if named and own not in named:
            return True
    return False


_TOTAL = re.compile(
    r" (?:total|altogether|in all|count|counted|sum|so|thu|thus|therefore|hence|make|making|add up to|give|giving"
    r"|number) "
)


def other_count(normal: str, numbers: dict[str, int], gold: str) -> bool:
    """Whether a body gives another of the options' numbers as its last count, and the gold one nowhere behind it."""
    wanted = numbers[gold]
    others = set(numbers.values()) - {wanted}
    for sentence in reversed(re.split(r" [.;?!] ", normal.rstrip(" .;?!"))):
        counted = list(word_lists.counts(sentence))
        said = [number for _, number in counted]
        if said[2:] and said[0] == sum(said[1:]) and said[0] in others:
            return True
        if wanted in said or (len(said) > 1 and sum(said) == wanted):
            return False
        if not _TOTAL.search(f" {sentence} ") and " there are " not in f" {sentence} " and len(said) != 1:
            continue
        if said and said[-1] in others and not word_lists.MORE.search(sentence):
            return _is_last_word(normal, wanted, said[-1])
    return False


def _is_last_word(normal: str, wanted: int, said: int) -> bool:
    """Whether the gold number is not counted anywhere else, nor the sum of what is counted."""
    everywhere = [number for _, number in word_lists.counts(normal)]
    return wanted not in everywhere and (len(everywhere) == 1 or sum(everywhere) != wanted or said == sum(everywhere))
