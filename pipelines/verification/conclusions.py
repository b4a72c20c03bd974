"""A body of reasoning and its question -> the rule by which it concludes something else than its answer line says.

What is compared are names: an option's whole text, its text without what stands in brackets, its abbreviation, and the
one word that no other option has. A name counts only where it is not denied, weighed against another, or supposed.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from pipelines.records import LETTERS
from pipelines.verification import word_lists
from pipelines.verification.phrases import Rule

_CHECK = "concludes_another"
OTHER_LETTER = Rule(id="other_letter", check=_CHECK, example="so option C is right, above an answer line with B")
OTHER_OPTION = Rule(id="other_option", check=_CHECK, example="so it is a vessel, above the answer `Tumor`")
OTHER_NUMBER = Rule(id="other_number", check=_CHECK, example="four lesions in all, above the answer `3`")
OPPOSITE = Rule(id="opposite", check=_CHECK, example="it lies on the left, above the answer `Right`")
DENIED = Rule(id="answer_denied", check=_CHECK, example="there is no effusion, above the answer `Effusion`")
RULES = (OTHER_LETTER, OTHER_OPTION, OTHER_NUMBER, OPPOSITE, DENIED)

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+\d*|[.;:?!,]")
_PLURAL = re.compile(r"(?<=[^\W\d_]{4})(?<!s)s(?= )")
_STOPS = frozenset(".;:?!")
_MOST_NAMES = 12  # mentions of options that are looked at in one text; the last ones


@dataclasses.dataclass(frozen=True, slots=True)
class _Options:
    """What a question's options are called. names: name -> letter. opposites: letter -> each word of an otherwise
    similar option that has its opposite in this one, and that opposite. numbers: letter -> what it counts, where all
    options are counts. asked: the question, normalised."""

    names: dict[str, str]
    opposites: dict[str, list[tuple[str, frozenset[str]]]]
    numbers: dict[str, int]
    asked: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Mention:
    """A place where an option is named, in words. before, after: words of its sentence."""

    letter: str
    place: int
    before: list[str]
    after: list[str]


def contradiction(body: str, text: str, options: tuple[str, ...], gold: str) -> Rule | None:
    """The rule by which a body does not lead to the gold option, if one does. text: of the question.

    body: as `phrases.plain` leaves it. Takes time in proportion to the body.
    """
    if _concludes_other_letter(body, options, gold, text):
        return OTHER_LETTER
    held = _read_options(text, options)
    normal = normalised(body)
    if gold in held.numbers:
        return OTHER_NUMBER if _counts_otherwise(normal, held.numbers, gold) else None
    mentions = list(_mentions(normal, held))
    if _concludes_other(mentions, gold, held):
        return OTHER_OPTION
    if _is_denied(mentions, gold, options):
        return DENIED
    return OPPOSITE if _says_opposite(normal, held, gold) else None


def normalised(text: str) -> str:
    """Words and marks of a text in lower case, singular, with a space around each."""
    return _PLURAL.sub("", f" {' '.join(_TOKEN.findall(text.lower()))} ")


@functools.lru_cache(maxsize=64)
def _read_options(text: str, options: tuple[str, ...]) -> _Options:
    asked = normalised(text)
    lettered = dict(zip(LETTERS, options, strict=False))
    normal = {letter: normalised(option) for letter, option in lettered.items()}
    words = {letter: frozenset(each.split()) - word_lists.COMMON for letter, each in normal.items()}
    distinct = {
        letter: own.difference(*(words[other] for other in words if other != letter)) for letter, own in words.items()
    }
    names: dict[str, str] = {}
    for letter, option in lettered.items():
        for name in _names_of(option, normal[letter], distinct[letter], words[letter]):
            # What two options are called, or what the question itself says, tells nothing.
            names[name] = "" if name in names or name in asked else letter
    counted = {letter: word_lists.number_in(each) for letter, each in normal.items()}
    is_count = len(set(counted.values())) == len(options) and None not in counted.values()
    numbers = {letter: number for letter, number in counted.items() if number is not None} if is_count else {}
    opposites = _opposites(words, distinct, asked)
    return _Options({name: letter for name, letter in names.items() if letter}, opposites, numbers, asked)


def _opposites(
    words: Mapping[str, frozenset[str]], distinct: Mapping[str, frozenset[str]], asked: str
) -> dict[str, list[tuple[str, frozenset[str]]]]:
    """As in _Options."""
    found: dict[str, list[tuple[str, frozenset[str]]]] = {}
    for gold, other in itertools.permutations(words, 2):
        for word in distinct[other] & word_lists.OPPOSITES.keys():
            opposite = word_lists.OPPOSITES[word] & distinct[gold]
            own, others = words[gold] - opposite, words[other] - {word}
            if opposite and f" {word} " not in asked and (own & others or not (own or others)):
                found.setdefault(gold, []).append((word, opposite))
    return found


_BRACKETED = re.compile(r"(.{2,}?) ?\(([\w-]{2,12})\)")
_LEADING = re.compile(r"^ (?:the|a|an|there is|there are|it is|presence of|it) ")


def _names_of(option: str, normal: str, distinct: frozenset[str], words: frozenset[str]) -> set[str]:
    names = {normal.rstrip(" .") + " ", _LEADING.sub(" ", normal)}
    if both := _BRACKETED.fullmatch(option.strip()):
        names |= {normalised(part) for part in both.groups()}
    own = distinct - word_lists.CLASSES
    # "Untreated group" is known by its one word; "untreated, severe" is not.
    if len(own) == 1 and not (words - distinct - word_lists.CLASSES) and len(next(iter(own))) > 3:
        names.add(f" {next(iter(own))} ")
    return {name for name in names if len(name.strip()) > 1 and name.strip() not in ("yes", "no")}


def _mentions(normal: str, held: _Options) -> Iterator[_Mention]:
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
        yield _Mention(letter, start, _last_sentence(before), _first_sentence(after))


def _last_sentence(words: list[str]) -> list[str]:
    stops = [place for place, word in enumerate(words) if word in _STOPS]
    return words[stops[-1] + 1 :] if stops else words


def _first_sentence(words: list[str]) -> list[str]:
    stop = next((place for place, word in enumerate(words) if word in _STOPS), len(words))
    return words[:stop]


_CONCLUDES = re.compile(
    r" (?:so|thus|therefore|hence|consequently|accordingly|conclude|conclusion|overall|answer|diagnosi|"
    r"diagnosis|must be|most likely|best option|right option|correct option|best choice|correct choice|"
    r"settle on|leave only|only fit|identifie it a|identify it a|making it|which mean|meaning) "
)
_INDICATES = re.compile(
    r" (?:(?:indicat|suggest|confirm|support|favour|favor|represent|identif|reveal|correspond|establish|prov)\w{0,5}"
    r"|(?:consistent|compatible|in keeping|in line) with|(?:which|this|that|it|these|pattern|appearance|finding) "
    r"(?:is|are) (?:typical|characteristic|diagnostic|pathognomonic|indicative|suggestive) (?:of|for)"
    r"|(?:point|fit|match|argue|speak|amount)\w{0,3} (?:to|for|toward|a|an|the|with)|classic for|hallmark of) "
)
_SUBJECT = re.compile(
    r" (?:this|it|(?:the|this|that|these|each|a|an) (?:\w+ ){0,2}(?:image|figure|picture|arrow|arrowhead|structure|lesion|"
    r"finding|abnormality|area|region|mass|view|scan|modality|technique|stain|label|asterisk|object|sample|pattern|"
    r"specimen|material|vessel|organ|section|slide)) (?:clearly |therefore |also |in fact |most likely )?"
    r"(?:is|are|indicate|mark|point to|represent|depict|denote|show|label|lie in|lie within|belong to)"
    r"(?: (?:a|an|the|in|typical|clear|classic|single|normal|large|small|that of)){0,4} $"
)
_DENIES = frozenset(
    "no not without never neither nor cannot t absent lack lacking exclude excludes excluded excluding unlike against "
    "rather instead except unlikely".split()
)
_SUPPOSES = frozenset(
    "would could might may should if were than versus v vs like resemble mimic expected usually typically often "
    "instead either or whether unless but".split()
)
_RULED_OUT = re.compile(
    r"(?:^| )(?:is|are|can be|was|were|be)(?: \w+){0,2} (?:absent|excluded|ruled|unlikely|not|wrong|incorrect|impossible|"
    r"implausible|missing|eliminated|out|less)(?: |$)|(?:^| )(?:would|could|does not|do not|cannot|usually|typically|tend"
    r"|normally|might|however|wherea|while|but|not|no|absent|lacking|unlike|although|though) "
)
_DIRECT_DENIAL = re.compile(
    r" (?:no|not|without|neither|nor|exclude|excluding|excluded|rule out|ruling out|ruled out|absence of|lack of)"
    r"(?: (?:a|an|any|the|evidence|sign|visible|obvious|definite|clear|true|convincing|appreciable|of|for|is|seen|there"
    r"|hint|trace|indication)){0,4} $"
)
_ENDS_MENTION = frozenset("is are was were on in at of visible seen can could present here within and or nor , to".split())
_LANDMARK = frozenset(
    "to of from than with by near in on at above below behind between and or beside beyond under over next around into "
    "along through for as toward towards against without".split()
)
_ARTICLES = frozenset("the a an".split())


def _is_open(mention: _Mention) -> bool:
    """Whether a mention is denied, weighed or supposed, so that it concludes nothing."""
    near = mention.before[-7:]
    if not _DENIES.isdisjoint(near) or not _SUPPOSES.isdisjoint(near):
        return True
    ahead = " ".join(mention.before)
    if " rule out" in f" {ahead}" or "ruled out" in ahead or "ruling out" in ahead or "differentiat" in ahead:
        return True
    return bool(_RULED_OUT.search(" ".join(mention.after[:14])))


def _strength(mention: _Mention, held: _Options) -> int:
    """How firmly a mention concludes: 3 by a word such as `therefore`, 2 by one such as `suggests`, 1 by being what the
    subject is, 0 not at all."""
    ahead = f" {' '.join(mention.before)} "
    if _CONCLUDES.search(ahead):
        return 3
    if _INDICATES.search(ahead) or _is_superlative(mention, held):
        return 2
    return 1 if _SUBJECT.search(ahead) or _is_end(mention) else 0


def _is_superlative(mention: _Mention, held: _Options) -> bool:
    """Whether the mention has the most of what the question asks for: the highest, the largest."""
    said = {*mention.before, *mention.after} & word_lists.SUPERLATIVES
    return any(f" {word} " in held.asked for word in said)


def _is_end(mention: _Mention) -> bool:
    """Whether the mention ends its sentence and is no landmark there, as in "next to the liver"."""
    if mention.after:
        return False
    words = [word for word in mention.before if word not in _ARTICLES]
    return bool(words) and words[-1] in word_lists.NAMING


def _concludes_other(mentions: Sequence[_Mention], gold: str, held: _Options) -> bool:
    """Whether the last firm conclusion is another option, and nothing leads back to the gold one."""
    closed = [(each, _strength(each, held)) for each in mentions if not _is_open(each)]
    others = [(each, strength) for each, strength in closed if each.letter != gold and strength]
    if not others:
        return False
    golds = [(each, strength) for each, strength in closed if each.letter == gold]
    last, strength = others[-1]
    strongest = max(strength for _, strength in golds) if golds else -1
    if strength < 3:
        # What only looks like a conclusion counts where the gold option is not even named.
        return strongest < 0 and not _is_hinted_at(mentions, gold)
    after = any(each.place > last.place for each, _ in golds)
    beside = any(abs(each.place - last.place) < 200 and each.before[:3] == last.before[:3] for each, _ in golds)
    return not after and not beside


def _is_hinted_at(mentions: Sequence[_Mention], gold: str) -> bool:
    return any(each.letter == gold for each in mentions)


def _is_denied(mentions: Sequence[_Mention], gold: str, options: tuple[str, ...]) -> bool:
    """Whether the gold option is named only to say that it is not there."""
    own = [each for each in mentions if each.letter == gold]
    if not own or word_lists.is_negative(options[LETTERS.index(gold)]):
        return False
    return all(
        _DIRECT_DENIAL.search(f" {' '.join(each.before)} ") and (not each.after or each.after[0] in _ENDS_MENTION)
        for each in own
    )


def _says_opposite(normal: str, held: _Options, gold: str) -> bool:
    """Whether another option's word stands in the body where the gold option has its opposite, which never does."""
    return any(
        f" {word} " in normal
        and not any(f" {each} " in normal for each in opposite)
        and any(True for _ in _plain_uses(normal, word))
        for word, opposite in held.opposites.get(gold, ())
    )


def _plain_uses(normal: str, word: str) -> Iterator[int]:
    """Where a word stands without being denied, and not as a place in the image."""
    start = normal.find(f" {word} ")
    while start >= 0:
        near = normal[max(0, start - 40) : start].split()[-4:]
        behind = normal[start + len(word) + 1 : start + len(word) + 40]
        if _DENIES.isdisjoint(near) and _SUPPOSES.isdisjoint(near) and not _IN_IMAGE.match(behind):
            yield start
        start = normal.find(f" {word} ", start + 1)


_IN_IMAGE = re.compile(r" (?:\w+ ){0,2}(?:of|in) the (?:image|picture|figure|panel|plot|screen)| (?:image|picture|panel|corner|axis)")


# ---- letters

_BY_LETTER = re.compile(
    r"\b(?:options?|choices?|answers?) (?:is |must be |should be |would be )?[\"'(\[]?([A-Z])\b[\"')\]]? (?:is|must be|has to be|"
    r"would be|fits|matches|describes)(?: (?:clearly|therefore|thus|the|most|definitely|best)){0,3} "
    r"(?:right|correct|best|answer|true|likely|one|option|appropriate|accurate|choice)\b"
    r"|\b(?:answer|option|choice) (?:here )?(?:is|must be|should be|has to be|:) ?(?:option |choice )?[\"'(\[]?([A-Z])\b(?![\w'-]| [a-z])"
    r"|\b(?:so|thus|therefore|hence|conclude|choose|select|pick|go with|confirms?|supports?|favou?rs?|suggests?|points? to|"
    r"corresponds? to|indicates?|matches|leaves|leaving)(?: that| only| to| with|,)? (?:it (?:is|must be) )?(?:options?|choice|answer) "
    r"[\"'(\[]?([A-Z])\b"
    r"|(?:[.;,] |^|\b(?:so|thus|therefore|hence),? )\(?([B-Z])\)? (?:is|must be)(?: (?:clearly|therefore|thus)){0,2} (?:the )?"
    r"(?:right|correct|best)(?: (?:answer|option|choice|one))?(?=[.,;]|$)"
)
_DENIED_LETTER = re.compile(r"\b(?:not|no|neither|nor|cannot|than|unlike|if|eliminates?|excludes?|rules? out|wrong)\b[^.;]{0,30}$|n't [^.;]{0,20}$")
_NAMED_LETTER = re.compile(r"(?<![\w'-])[\"'(]?([A-Z])[\"')]?(?:[.:)=]| is| =| means| stands for| refers to) (?:the |an? )?")


# A capital A before a word is an article, but for "A is".
_LONE_LETTER = re.compile(r"(?<![\w'-])(?:[B-Z]|A(?! (?!is\b|and\b|or\b|means\b|must\b|stands\b|refers\b)[a-z]))(?![\w'-])")


def _concludes_other_letter(body: str, options: tuple[str, ...], gold: str, text: str) -> bool:
    """Whether the last option that the body calls right by its letter is another, or letters are given others' texts."""
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
        named = [place for place, each in enumerate(shorter) if len(each) > 2 and behind.startswith(each)]
        if named and own not in named:
            return True
    return False


# ---- numbers

_TOTAL = re.compile(
    r" (?:total|altogether|in all|count|counted|sum|so|thu|thus|therefore|hence|make|making|add up to|give|giving|number) "
)


def _counts_otherwise(normal: str, numbers: dict[str, int], gold: str) -> bool:
    """Whether a body gives another of the options' numbers as its last count, and the gold one nowhere behind it."""
    wanted = numbers[gold]
    others = set(numbers.values()) - {wanted}
    for sentence in reversed(re.split(r" [.;?!] ", normal.rstrip(" .;?!"))):
        counted = list(word_lists.counts(sentence))
        said = [number for _, number in counted]
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
