"""A text and the place where its answer is announced -> the reasoning before it, in whole sentences."""

import re

_MARKS = " \t*_#>`~$✅✔️-–—"
# A full stop ends a sentence, unless a small letter follows, or it belongs to an abbreviation or a list's number.
_END = re.compile(r"[.!?][\"'”’)\]*_`]*\s+(?![a-z])|[。！？]|\n")
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\[\"'])(?:e\.g|i\.e|figs?|tabs?|eqs?|refs?|nos?|approx|ca|cf|vs|incl|dr|prof|st)\.$|^\s*\d{1,3}\.$",
    re.IGNORECASE,
)
_LONGEST_ABBREVIATION = 12
# Words that lead from the reasoning to the answer within one sentence: ", so the right ".
_CONCLUDING = re.compile(
    r"(?:[,;:–—]|\s-)?\s+(?:and\s+)?(?:so|thus|therefore|hence|consequently|accordingly|which means|meaning)\b[,:]?"
    r"(?:\s+(?:that|the|my|its|i|we|say|think|believe|conclude|final|correct|right|best|option|choice)\b)*[\s*_(\"']*$",
    re.IGNORECASE,
)
_LONGEST_LEAD = 120
# A clause that begins with one of these words cannot stand alone.
_DEPENDENT = re.compile(
    r"\W*(?:because|since|as|if|given|although|though|while|when|whereas|based|considering|judging|looking|from|due"
    r"|so|thus|hence|therefore|and|but|or|which|with|by)\b",
    re.IGNORECASE,
)
_MIN_WORDS = 3
# The end of a line that leads to the part that is cut off.
_LEADS_ON = re.compile(
    r"(?:[,:;(\[–—]|\b(?:so|and|or|but|thus|hence|therefore|because|since|that|the|an?|is|are|my|which|means|of|as"
    r"|to|in"
    r"|by|with|conclude|conclusion|finally|overall|be|was|were|must|should|would|can|could|may|might|will|from|for"
    r"|at|on"
    r"|into|than|if|while|where|whether|choose|select|pick|options?|choices?|(?:final|correct|right|best) answers?"
    r"|answer)"
    r",?|\b(?:so|thus|hence|therefore|consequently|accordingly|overall|finally),? [^.!?\n]{0,60}\b(?:diagnosis"
    r"|finding|modality"
    r"|technique|interpretation|explanation|match|candidate|fits?))$",
    re.IGNORECASE,
)
_MOST_STUMPS = 16  # a text that ends with more of them is no reasoning
_HEADING = re.compile(r"#{1,6}\s.*|(?:\*\*|__)[^*_]*[^*_.!?](?:\*\*|__)|(?:\d{1,3}[.)]|[-*•])?")


def before(text: str, place: int) -> str:
    """The whole sentences before a place in a text, with the clause before it where this can stand alone."""
    start = _sentence_start(text, place)
    led = _CONCLUDING.search(text, max(start, place - _LONGEST_LEAD), place)
    clause = text[start : led.start()] if led else ""
    if len(clause.split()) >= _MIN_WORDS and not _DEPENDENT.match(clause):
        return f"{text[:start]}{clause.rstrip()}.".strip()
    return _without_stump(text[:start].rstrip())


def is_unfinished(text: str) -> bool:
    """Whether a text ends in the middle of a sentence that leads to something else."""
    line = text[text.rfind("\n") + 1 :].strip(_MARKS)
    return _leads_on(line)


def _leads_on(line: str) -> bool:
    return line[-1:] not in tuple(".!?") and bool(_LEADS_ON.search(line[-_LONGEST_LEAD:]))


def last(text: str) -> int:
    """Where the last sentence of a text begins."""
    return _sentence_start(text, len(text.rstrip(" \n。！？")))


def _sentence_start(text: str, place: int) -> int:
    """Where the sentence begins that `place` lies in."""
    start = 0
    for end in _END.finditer(text, 0, place):
        near = max(0, end.start() - _LONGEST_ABBREVIATION)
        word = text[max(near, text.rfind("\n", near, end.start()) + 1) : end.start() + 1]
        if end[0] == "\n" or not _ABBREVIATED.search(word):
            start = end.end()
    return start


def _without_stump(text: str) -> str:
    """A text without the end that only led to the part that was cut off: headings, rules, an unfinished sentence."""
    for _ in range(_MOST_STUMPS):
        head, _, line = text.rpartition("\n")
        bare = line.strip(_MARKS)
        if not bare or _HEADING.fullmatch(line.strip()) or bare.endswith(":"):
            text = head.rstrip()
        elif _leads_on(bare):
            text = text[: _sentence_start(text, len(text))].rstrip()
        else:
            return text.strip()
    return ""
