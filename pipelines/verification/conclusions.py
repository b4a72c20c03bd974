"""A body of reasoning and its question -> the rule by which it concludes something else than its answer line says.

What is compared are names: an option's whole text, its text without what stands in brackets, its abbreviation, and the
one word that no other option has. A name counts only where it is not denied, weighed against another, or supposed.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence

from pipelines.records import LETTERS
from pipelines.verification import option_names, stated_answers, word_lists
from pipelines.verification.option_names import Options
from pipelines.verification.phrases import Rule

_CHECK = "concludes_another"
OTHER_LETTER = Rule(id="other_letter", check=_CHECK, example="so option C is right, above an answer line with B")
OTHER_OPTION = Rule(id="other_option", check=_CHECK, example="so it is a vessel, above the answer `Tumor`")
OTHER_NUMBER = Rule(id="other_number", check=_CHECK, example="four lesions in all, above the answer `3`")
OPPOSITE = Rule(id="opposite", check=_CHECK, example="it lies on the left, above the answer `Right`")
DENIED = Rule(id="answer_denied", check=_CHECK, example="there is no effusion, above the answer `Effusion`")
RULES = (OTHER_LETTER, OTHER_OPTION, OTHER_NUMBER, OPPOSITE, DENIED)

_ARTICLES = frozenset(["the", "a", "an"])
_STOPS = frozenset(".;:?!")
_FIRM, _LIKELY, _STATED = 3, 2, 1  # how an option is concluded
_BESIDE = 200  # characters within which two mentions can be of one sentence
_MOST_NAMES = 12  # mentions of options that are looked at in one text; the last ones


@dataclasses.dataclass(frozen=True, slots=True)
class _Mention:
    """A place where an option is named, in words. before, after: words of its sentence. is_all: nothing else stands
    behind a colon, or behind "i.e."."""

    letter: str
    place: int
    before: list[str]
    after: list[str]
    is_all: bool


def contradiction(body: str, text: str, options: tuple[str, ...], gold: str) -> Rule | None:
    """The rule by which a body does not lead to the gold option, if one does. text: of the question.

    body: as `phrases.plain` leaves it. Takes time in proportion to the body.
    """
    if stated_answers.other_letter(body, options, gold, text):
        return OTHER_LETTER
    held = option_names.read(text, options)
    normal = option_names.normalised(body)
    if gold in held.numbers:
        return OTHER_NUMBER if stated_answers.other_count(normal, held.numbers, gold) else None
    mentions = list(_mentions(normal, held))
    if _compares_otherwise(body, options, gold) or _concludes_other(mentions, gold, held):
        return OTHER_OPTION
    if _denies_question(normal, held, options, gold) or _is_denied(mentions, gold, options):
        return DENIED
    return OPPOSITE if _says_opposite(normal, held, gold) or _is_spared(normal, held, gold) else None


def _mentions(normal: str, held: Options) -> Iterator[_Mention]:
    """Where options are named, in order; of names inside one another the longest counts."""
    places: dict[int, tuple[str, str]] = {}
    for name in sorted(held.names, key=len, reverse=True):
        start = normal.find(name)
        while start >= 0:
            if not any(at <= start < at + len(longer) - 1 for at, (longer, _) in places.items()):
                places[start] = (name, held.names[name])
            start = normal.find(name, start + 1) if len(places) < _MOST_NAMES else -1
    for start in sorted(places):
        name, letter = places[start]
        before = normal[max(0, start - 400) : start + 1].split()
        after = normal[start + len(name) - 1 : start + len(name) + 200].split()
        last = [word for word in before[-3:] if word not in _ARTICLES][-2:]
        is_all = (last[1:] == [":"] and len(last[0]) > 1) or last == ["e", "."]
        yield _Mention(
            letter, start, _last_sentence(before), _first_sentence(after), is_all and after[:1] in ([], ["."])
        )


def _last_sentence(words: list[str]) -> list[str]:
    stops = [place for place, word in enumerate(words) if word in _STOPS]
    return words[stops[-1] + 1 :] if stops else words


def _first_sentence(words: list[str]) -> list[str]:
    stop = next((place for place, word in enumerate(words) if word in _STOPS), len(words))
    return words[:stop]


_CONCLUDES = re.compile(
    r" (?:so(?! (?:is|are|do|doe) )|thus|therefore|hence|consequently|accordingly|conclude|conclusion|overall|answer|"
    r"diagnosi|diagnosis|must be|most likely|best option|right option|correct option|best choice|correct choice|"
    r"settle on|leave only|only fit|identifie it a|identify it a|making it|which mean|meaning) "
)
_INDICATES = re.compile(
    r" (?:(?:indicat|suggest|confirm|support|favour|favor|represent|identif|reveal|correspond|establish|prov)\w{0,5}"
    r"|(?:consistent|compatible|in keeping|in line) with|(?:diagnostic|pathognomonic|indicative|suggestive) (?:of|for)"
    r"|(?:typical|characteristic) (?:of|for)|as (?:seen |found )?in|belong to|is that of"
    r"|(?:acquired|obtained|taken|made|produced|captured|generated|stained|formed|explained|recorded) (?:with|by|using)"
    r"|(?:point|fit|match|argue|speak|amount)\w{0,3} (?:to|for|toward|a|an|the|with)|classic for"
    r"|(?:hallmark|finding|fingerprint|signature|picture|appearance|evidence|sign) of"
    r"|(?:clearly|obviously|evidently) (?:a|an|the)) "
)
_NEAR = 7  # words before a mention within which a word denies it or leads to it
_SUBJECT = re.compile(
    r" (?:this|it|that|these|those|which"
    r"|(?:the|this|that|these|each|a|an) (?:\w+ ){0,2}(?:image|figure|picture|arrow|arrowhead|structure"
    r"|lesion|"
    r"finding|abnormality|area|region|mass|view|scan|modality|technique|stain|label|asterisk|object|sample|pattern|"
    r"specimen|material|vessel|organ|section|slide)) (?:clearly |therefore |also |in fact |most likely )?"
    r"(?:is|are|indicate|mark|point to|represent|depict|denote|show|label|lie in|lie within|belong to)"
    r"(?: (?:a|an|the|in|typical|clear|classic|single|normal|large|small|that of)){0,4} $"
)
_IS = re.compile(
    r" (?:the|these) (\w+) (?:is|are) (?:(?!(?:of|in|to|at|on|by|near|with|without|from|beside|like)\b)\w+ ){0,2}$"
)
_WHERE = re.compile(r" (?:where|location|located) ")
_IS_PLACED = re.compile(
    r" (?:seen|located|visible|situated|found|lie|lying|project|projecting) (?:in|over|within) the (?:\w+ )?$"
)
_IS_SEEN = re.compile(r"(?:is|are) (?:\w+ )?(?:evident|present|seen|visible|noted|shown|identified)\b")
_RULED_OUT = re.compile(
    r"(?:^| )(?:is|are|can be|was|were|be)(?: \w+){0,2} (?:absent|excluded|ruled|unlikely|not|wrong|incorrect"
    r"|impossible|"
    r"implausible|missing|eliminated|out|less)(?: |$)|(?:^| )(?:would|could|does not|do not|cannot|usually"
    r"|typically|tend"
    r"|normally|might|however|wherea|while|but|not|no|absent|lacking|unlike|although|though) "
)
_DIRECT_DENIAL = re.compile(
    r" (?:no|not|without|neither|nor|exclude|excluding|excluded|rule out|ruling out|ruled out|absence of|lack of)"
    r"(?: (?:a|an|any|the|evidence|sign|visible|obvious|definite|clear|true|convincing|appreciable|of|for|is|seen|there"
    r"|hint|trace|indication)){0,4} $"
)

_LEADS_ON = frozenset(["so", "thus", "therefore", "hence"])


def _is_open(mention: _Mention) -> bool:
    """Whether a mention is denied, weighed or supposed, so that it concludes nothing."""
    near = mention.before[-_NEAR:]
    # What is denied before "so it is a cyst" was the ground, and not the cyst.
    near = near[max((place for place, word in enumerate(near) if word in _LEADS_ON), default=0) :]
    if not word_lists.DENIES.isdisjoint(near) or not word_lists.SUPPOSES.isdisjoint(near):
        return True
    ahead = " ".join(mention.before)
    if " rule out" in f" {ahead}" or "ruled out" in ahead or "ruling out" in ahead or "differentiat" in ahead:
        return True
    return bool(_RULED_OUT.search(" ".join(mention.after[:14])))


def _strength(mention: _Mention, held: Options) -> int:
    """How firmly a mention concludes: by a word such as `therefore`, by one such as `suggests`, by being what the
    subject is, or not at all, which is 0."""
    ahead = f" {' '.join(mention.before)} "
    if _CONCLUDES.search(ahead):
        return _FIRM
    if _INDICATES.search(f" {' '.join(mention.before[-_NEAR:])} ") or _is_superlative(mention, held):
        return _LIKELY
    if _WHERE.search(held.asked) and _IS_PLACED.search(ahead):
        return _LIKELY
    if any(word_lists.is_negative(name) for name, letter in held.names.items() if letter == mention.letter):
        return 0  # that something is normal may be said of something else
    is_asked = (subject := _IS.search(ahead)) and f" {subject[1]} " in held.asked
    is_stated = _SUBJECT.search(ahead) or is_asked or _IS_SEEN.match(" ".join(mention.after))
    return _STATED if is_stated or _is_end(mention) else 0


def _is_superlative(mention: _Mention, held: Options) -> bool:
    """Whether the mention has the most of what the question asks for: the highest, the largest."""
    said = {*mention.before, *mention.after} & word_lists.SUPERLATIVES
    return any(f" {word} " in held.asked for word in said)


def _is_end(mention: _Mention) -> bool:
    """Whether the mention ends its sentence and is no landmark there, as in "next to the liver"."""
    if mention.after:
        return False
    words = [word for word in mention.before if word not in _ARTICLES]
    return mention.is_all or (bool(words) and words[-1] in word_lists.NAMING and words[-2:-1] != ["so"])


def _concludes_other(mentions: Sequence[_Mention], gold: str, held: Options) -> bool:
    """Whether the last firm conclusion is another option, and nothing leads back to the gold one."""
    closed = [(each, _strength(each, held)) for each in mentions if not _is_open(each)]
    others = [(each, strength) for each, strength in closed if each.letter != gold and strength]
    if not others:
        return False
    golds = [(each, strength) for each, strength in closed if each.letter == gold]
    last, strength = others[-1]
    if strength < _FIRM:
        # What only looks like a conclusion counts where the gold option is not even named.
        return not any(each.letter == gold for each in mentions)
    after = any(each.place > last.place for each, _ in golds)
    beside = any(abs(each.place - last.place) < _BESIDE and each.before[:3] == last.before[:3] for each, _ in golds)
    return not after and not beside


def _is_denied(mentions: Sequence[_Mention], gold: str, options: tuple[str, ...]) -> bool:
    """Whether the gold option is named only to say that it is not there."""
    own = [each for each in mentions if each.letter == gold]
    if not own or word_lists.is_negative(options[LETTERS.index(gold)]):
        return False
    return all(
        _DIRECT_DENIAL.search(f" {' '.join(each.before)} ")
        and (not each.after or each.after[0] in word_lists.ENDS_MENTION)
        for each in own
    )


_ASKED_FOR = re.compile(
    r" (?:is|are) there (?:(?:a|an|any|evidence|sign|of|visible|obvious|clear) ){0,4}((?:\w+ ){1,3}?)"
    r"(?:in|on|at|within|visible|present|seen|of|to|along|\?|$)"
)
_IS_THERE = re.compile(r" (?:there (?:is|are)|show|reveal|demonstrate|so|therefore) (?:\w+ ){0,3}$")
_IS_PRESENT = re.compile(r"^(?: \w+){0,2} (?:is|are) (?:clearly )?(?:present|seen|visible|noted|evident|identified)")


def _denies_question(normal: str, held: Options, options: tuple[str, ...], gold: str) -> bool:
    """Whether a body says no where the answer to "Is there ...?" is yes, or yes where it is no."""
    answer = options[LETTERS.index(gold)].strip().strip(".").lower()
    found = _ASKED_FOR.search(held.asked) if answer in ("yes", "no") else None
    if found is None:
        return False
    name, denied, stated = f" {found[1].rstrip()}", 0, 0  # also the beginning of `fractured`
    start = normal.find(name)
    num = 0
    while start >= 0 and num < _MOST_NAMES:
        ahead, behind = normal[max(0, start - 60) : start + 1], normal[start + len(name) : start + 90]
        is_denied = bool(_DIRECT_DENIAL.search(ahead)) or " no " in ahead[-20:]
        denied += is_denied
        stated += not is_denied and bool(_IS_THERE.search(ahead) or _IS_PRESENT.search(behind))
        num += 1
        start = normal.find(name, start + 1)
    return denied == num > 0 if answer == "yes" else stated > 0 and not denied


_COMPARATIVES = frozenset(["larger", "bigger", "greater", "wider", "higher", "thicker", "brighter", "denser", "longer"])


def _compares_otherwise(body: str, options: tuple[str, ...], gold: str) -> bool:
    """Whether a body finds more in the place that another option names, of options such as "larger in A"."""
    split = [re.findall(r"\w+", option) for option in options]
    own = split[LETTERS.index(gold)]
    if _COMPARATIVES.isdisjoint(own):
        return False
    for other in split:
        only, others = set(own) - set(other), set(other) - set(own)
        if len(only) == len(others) == 1 and not _COMPARATIVES.isdisjoint(other):
            (right,), (wrong,) = only, others
            return _has_more(body, wrong, right) and not _has_more(body, right, wrong)
    return False


def _has_more(body: str, place: str, other: str) -> bool:
    """Whether a place is said to have more. A capital at the start of a sentence may be an article, so none counts."""
    more = "|".join(sorted(_COMPARATIVES))
    near, there = rf"(?:(?!than\b|{re.escape(other)}\b)\w+,? )", rf"\(?{re.escape(place)}\b\)?"
    first = rf"(?<=\w ){there} (?!than){near}{{0,4}}?(?:{more})\b"
    behind = rf"\b(?:{more}) {near}{{0,4}}?in (?:the )?(?:\w+ )?{there}"
    return bool(re.search(f"{first}|{behind}", body))


def _says_opposite(normal: str, held: Options, gold: str) -> bool:
    """Whether another option's word stands in the body where the gold option has its opposite, which never does."""
    return any(
        f" {word} " in normal
        and not any(f" {each} " in normal for each in opposite)
        and any(True for _ in _plain_uses(normal, word, held.asked))
        for word, opposite in held.opposites.get(gold, ())
    )


_SPARED = re.compile(r" (?:sharp|normal|unremarkable|spared|uninvolved|unaffected|intact|healthy) ")
_CLAUSE_END = re.compile(r" (?:[.,;:]|and the|while|wherea|but) ")


def _is_spared(normal: str, held: Options, gold: str) -> bool:
    """Whether a body finds the gold option's side or part in order, and another's not."""
    if _SPARED.search(held.asked):
        return False
    clauses = [f" {clause} " for clause in _CLAUSE_END.split(normal)]
    for word, opposite in held.opposites.get(gold, ()):
        own = [clause for clause in clauses if any(f" {each} " in clause for each in opposite)]
        others = [clause for clause in clauses if f" {word} " in clause]
        if own and others and all(map(_SPARED.search, own)) and not any(map(_SPARED.search, others)):
            return True
    return False


def _plain_uses(normal: str, word: str, asked: str) -> Iterator[int]:
    """Where a word stands without being denied, and neither as a place in the image nor of a thing not asked about."""
    start = normal.find(f" {word} ")
    while start >= 0:
        near = normal[max(0, start - 40) : start].split()[-4:]
        behind = normal[start + len(word) + 1 : start + len(word) + 40]
        is_of_another = near[-1:] in (["is"], ["are"]) and f" {near[-2:][0]} " not in f"{asked} it this that they "
        if is_of_another or "other" in near:
            start = normal.find(f" {word} ", start + 1)
            continue
        if word_lists.DENIES.isdisjoint(near) and word_lists.SUPPOSES.isdisjoint(near) and not _IN_IMAGE.match(behind):
            yield start
        start = normal.find(f" {word} ", start + 1)


_IN_IMAGE = re.compile(
    r" (?:\w+ ){0,2}(?:of|in) the (?:image|picture|figure|panel|plot|screen)| (?:image|picture|panel|corner|axis)"
)
