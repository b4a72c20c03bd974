"""Options -> the ways in which an answer may name them, and what a text names."""

import dataclasses
import functools
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator

from pipelines.inference import prompts
from pipelines.inference.answers import phrases, plain
from pipelines.records import LETTERS

_MOST_AROUND = 64  # characters that may stand around an option's text in a text that names it and nothing else
_LETTER_LAST = re.compile(r"(.+?)[\s,:;-]{0,4}[(\[] ?(?:option |choice )?([A-Za-z]) ?[)\]]")
_OPTION_LAST = re.compile(r"(.+?)[\s,:;-]{1,4}(?:option|choice|answer) ([A-Za-z])", re.IGNORECASE)
_LETTER_FIRST = re.compile(
    r"(?:(?:option|choice|answer) )?[(\[<\"' *_`]{0,4}([A-Za-z])(?:([)\]>\"'.:,;*_`|]{1,6}) ?| [-|=:]{1,2} | )(.+)",
    re.IGNORECASE,
)
_LONE_LETTER = re.compile(
    rf"\W{{0,40}}(?:(?:option|choice|answer) |(?P<lead>(?:{phrases.either('lead', phrases.ALL)}[ :]?){{1,3}}))?"
    r"(?P<bracket>[(\[])?\W{0,8}(?P<letter>[A-Za-z])\W{0,40}(?:です|입니다)?\W{0,8}",
    re.IGNORECASE,
)
_ABBREVIATED = re.compile(r"(.{2,}?) \((\w[\w\-&/+]+)\)")
_LETTER = re.compile(r"[^\W\d_]")
_IDEOGRAM = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]")
_FRAME = (  # words with which a text of one letter is named
    r"(?:arrows?|regions?|labels?|points?|structures?|areas?|markers?|grade|stage|type|class|group|phase|element|symbol|"
    r"curve|line|peak|spot|box|circle|site|zone|position|level|category)"
)
_SENTENCE_END = re.compile(
    r"(?<! \w)[.!?](?=\s|$|[\"')])|[;。！？\n]|, (?:so|thus|hence|therefore|but)(?= (?:it|this|the|that) )"
)
_CONTRAST = re.compile(
    r"(?:,|,? and|,? but) not |,? (?:rather than|instead of|as opposed to|unlike|over|without) |,? (?:with|but|and) no "
    r"|(?<=\w),? because |, (?:as|since) "
)
_WORD = re.compile(r"\w{3,}")
_AND_BEFORE = re.compile(r"(\w{3,}),? (?:and|or) $")
_AND_BEHIND = re.compile(r",? (?:and|or) (\w{3,})")
_NEXT_LETTER = re.compile(r"[\s.,;|/\-]{0,8}[(\[]?([a-zA-Z])[)\].:]\s{0,8}")
_ASIDE = re.compile(r", (?:which|suggesting|indicating) ")
_WRAPPED = re.compile(r"^(\*{1,3}|_{1,3}|`)(.+)\1$")
_CHOICE = re.compile(r"· or\b|\bor ·|·,? (?:and|or) [a-z]\b|· ?/|/ ?·|\?")
_CROSSES = frozenset("✗✘❌✖×")
_YES_NO = frozenset({"yes", "no"})


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """A text that is an option, with or without a letter, and nothing else.

    letters: those that can be meant; none where letter and text contradict each other. text_letter: of the text.
    """

    letters: frozenset[str]
    text_letter: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Mention:
    """An option's text within another: from start to end of the text as `Options.spelled` writes it."""

    letter: str
    start: int
    end: int


class Options:
    """A question's options. They are compared in the loosest form in which no two of them are the same."""

    def __init__(self, texts: tuple[str, ...]) -> None:
        self.texts = texts
        self.letters = LETTERS[: len(texts)]
        self.longest = max(map(len, texts), default=0)
        self.spelled, self._key = _form(texts)
        self._of_key: dict[str, set[str]] = {}
        for letter, text in zip(self.letters, texts, strict=True):
            self._of_key.setdefault(self._key(text), set()).add(letter)
        self._lines = {
            plain.as_written(prompts.answer(text, letter)): letter
            for letter, text in zip(self.letters, texts, strict=True)
        }

    def of_taught_line(self, line: str) -> str | None:
        """The letter of the option whose line, as `prompts.answer` writes it, this is, character by character."""
        return None if len(line) > self.longest + _MOST_AROUND else self._lines.get(plain.as_written(line))

    def text_of(self, letter: str) -> str:
        """An option's text."""
        return self.texts[LETTERS.index(letter)]

    def of_letter(self, text: str) -> str | None:
        """The letter in a text that holds one letter, marks and words such as `option`, and nothing else."""
        found = _LONE_LETTER.fullmatch(text) if len(text) <= 2 * _MOST_AROUND else None
        if (
            found is None
            or _CROSSES.intersection(text)
            or text.rstrip(" \"'*_").endswith("?")
            or (found["lead"] and self._named(found["lead"]))
        ):
            return None
        letter = str(found["letter"])
        return letter.upper() if letter.isupper() or found["bracket"] or not found["lead"] else None

    def whole(self, said: str) -> Whole | None:
        """The option that a text is, and nothing else; None where it is anything else."""
        if len(said) > 2 * self.longest + _MOST_AROUND or not said.strip():
            return None
        line = plain.as_written(said)
        pairs = list(self._pairs(line))
        for last, named in pairs:
            if last in named and line.endswith((f"({last})", f"({last}).")):
                return Whole(frozenset(last), last)  # the line that is taught, as near as these options allow
        texts = self._named(line) or self._named(line.strip(" .*_`\"'“”"))
        letter = self.of_letter(line)
        if alone := texts | ({letter} if letter and letter in self.letters else set()):
            return Whole(frozenset(alone), texts.pop() if len(texts) == 1 else None)
        named_pairs = [(letter, named) for letter, named in pairs if named]
        if not named_pairs:
            return None
        agreeing = {letter for letter, named in named_pairs if letter in named}
        told = {each for _, named in named_pairs for each in named}
        return Whole(frozenset(agreeing), agreeing.copy().pop() if agreeing else told.pop() if len(told) == 1 else None)

    def _named(self, text: str) -> set[str]:
        return set(self._of_key.get(self._key(text), ()))

    def _pairs(self, line: str) -> Iterator[tuple[str, set[str]]]:
        """Letter and options that a line can be, read as `text (letter)` or `letter. text`."""
        bare, unwrapped = line.strip(" *_`\"'“”."), _WRAPPED.sub(r"\2", line)
        for pattern, letter, text in ((_LETTER_LAST, 2, 1), (_OPTION_LAST, 2, 1), (_LETTER_FIRST, 1, 3)):
            found = [each for variant in dict.fromkeys((unwrapped, line, bare)) if (each := pattern.fullmatch(variant))]
            pairs = [(str(each[letter]).upper(), self._named_anyhow(each[text])) for each in found]
            if pairs:
                yield next((pair for pair in pairs if pair[1]), pairs[0])

    def _named_anyhow(self, text: str) -> set[str]:
        """The options that a text beside a letter is, without the marks around it where need be."""
        return self._named(text) or self._named(text.strip(" -:=>|*_`\"'.")) or self._named(text.strip(" ()[]*_`."))

    @functools.cached_property
    def _names(self) -> dict[bool, tuple[re.Pattern[str] | None, dict[str, str]]]:
        return {abbreviated: self._pattern(abbreviated) for abbreviated in (False, True)}

    def _pattern(self, abbreviated: bool) -> tuple[re.Pattern[str] | None, dict[str, str]]:
        """What finds the names of options, longest first, and the letter of each name."""
        pairs = [
            (name, letter)
            for letter, text in zip(self.letters, self.texts, strict=True)
            for name in _names_of(self.spelled(text), abbreviated)
        ]
        times = Counter(name for name, _ in pairs)
        of_name = {name: letter for name, letter in pairs if times[name] == 1}
        ordered = sorted(of_name, key=len, reverse=True)
        if not ordered:
            return None, {}
        return re.compile("|".join(f"(?P<n{place}>{self._as_pattern(name)})" for place, name in enumerate(ordered))), {
            f"n{place}": of_name[name] for place, name in enumerate(ordered)
        }

    def _as_pattern(self, name: str) -> str:
        if name.casefold() in _YES_NO:  # `no` denies the word behind it, unless it begins the answer
            return rf"(?:(?<=^)|(?<=[.,:!?\"'(] )|(?<= or )|(?<=[\"'(])){re.escape(name)}(?=\W*$|\W*[.,;:!(\-]| or )"
        if _LETTER.fullmatch(name):
            article = name.upper() in self.letters
            return rf"(?:(?<=^)|(?<= )){_FRAME if article else f'(?:{_FRAME}|is)'} {re.escape(name)}(?=\W*$|[.,;)])"
        return _whole_words(name)

    def mentions(self, said: str, *, abbreviated: bool = False) -> list[Mention]:
        """Options whose texts stand in a spelled text as whole words; a shorter one inside a longer is not found.

        abbreviated: of an option `text (abbreviation)`, either part is enough.
        """
        pattern, of_group = self._names[abbreviated]
        if pattern is None:
            return []
        found = [Mention(of_group[str(each.lastgroup)], each.start(), each.end()) for each in pattern.finditer(said)]
        return [each for each in found if said[each.start : each.end].casefold() in _YES_NO] or found

    def affirmed(self, said: str, *, abbreviated: bool = False) -> tuple[set[str], set[str]]:
        """Letters of the options whose texts stand in a text, and of those that nothing beside them denies or leaves
        open."""
        spelled = self.spelled(said)
        mentions = self.mentions(spelled, abbreviated=abbreviated)
        named = {each.letter for each in mentions}
        if mentions and spelled[mentions[0].start : mentions[0].end].casefold() in _YES_NO:
            return named, named
        blanked = _blanked(spelled, mentions)
        ends = [0, *(end.end() for end in _SENTENCE_END.finditer(blanked)), len(blanked)]
        sure: set[str] = set()
        for start, end in itertools.pairwise(ends):
            sure |= _sure([each for each in mentions if start <= each.start < end], blanked, start, end)
        return named, sure | {
            other for each in mentions if each.letter in sure for other in self._joined(each, spelled)
        }

    def _joined(self, mention: Mention, text: str) -> set[str]:
        """The options that are given together with one, as A in `brittle and ductile fracture`."""
        before = _AND_BEFORE.search(text, max(0, mention.start - _MOST_AROUND), mention.start)
        behind = _AND_BEHIND.match(text, mention.end)
        words = {str(each[1]) for each in (before, behind) if each}
        return {
            letter
            for word in words
            for letter in self.letters
            if word in self._words[letter] - self._words[mention.letter]
        }

    @functools.cached_property
    def _words(self) -> dict[str, set[str]]:
        """The words of each option's text."""
        return {
            letter: set(_WORD.findall(self.spelled(text)))
            for letter, text in zip(self.letters, self.texts, strict=True)
        }

    def lists(self, said: str) -> bool:
        """Whether a text goes from one option with its letter to the next with nothing between them."""
        spelled = self.spelled(said)
        return any(
            (found := _NEXT_LETTER.fullmatch(spelled, last.end, following.start))
            and found[1].upper() == following.letter != last.letter
            for last, following in itertools.pairwise(self.mentions(spelled))
        )


def _sure(mentions: list[Mention], text: str, start: int, end: int) -> set[str]:
    """Those of a sentence's mentions that it neither denies nor leaves open; what is set against them, or gives the
    reason, does not count, and what is said of them aside leaves them no more open than they are."""
    cut = next((found.start() for found in _CONTRAST.finditer(text, start, end)), end)
    if not any(each.start < cut for each in mentions):
        cut = end
    said = text[start:cut]
    told = _ASIDE.split(said, maxsplit=1)[0]
    is_open = phrases.search("open", told if "·" in told else said)
    if not mentions or _CHOICE.search(said) or is_open or phrases.search("deny", said):
        return set()
    return {each.letter for each in mentions if each.start < cut}


def _blanked(text: str, mentions: list[Mention]) -> str:
    pieces, last = [], 0
    for each in mentions:
        pieces += [text[last : each.start], "·" * (each.end - each.start)]
        last = each.end
    return "".join([*pieces, text[last:]])


def _form(texts: tuple[str, ...]) -> tuple[Callable[[str], str], Callable[[str], str]]:
    """How texts are spelled to look for options in them, and how they are compared with options as a whole."""
    most = len(set(map(plain.as_written, texts)))  # fewer than texts where one stands there twice
    for spelled in (plain.loose, plain.unmarked):
        keys = {plain.solid(spelled(text)) for text in texts}
        if len(keys) == most and "" not in keys:
            return spelled, lambda text, spelled=spelled: plain.solid(spelled(text))  # type: ignore[misc]
    for spelled in (plain.folded, plain.as_written):
        keys = {"".join(spelled(text).split()) for text in texts}
        if len(keys) == most:
            break
    return spelled, lambda text: "".join(spelled(text).split())


def _names_of(text: str, abbreviated: bool) -> set[str]:
    text = text.strip(" .") or text
    both = _ABBREVIATED.fullmatch(text)
    return {text, *(both.groups() if abbreviated else both.groups()[:1])} if both else {text} - {""}


def _whole_words(name: str) -> str:
    """A pattern for a text that is not part of a longer word or another number: 1 is not found in -1, 1.5, 10^1, 1+."""
    first, last = name[0], name[-1]
    before = r"(?<![\w+\-^/])(?<!\d[.,])" if first.isdigit() else "" if _IDEOGRAM.match(first) else r"(?<!\w)"
    after = r"(?!\w|[.,/^\-]\d|[+%])" if last.isdigit() else "" if _IDEOGRAM.match(last) else r"(?!\w)"
    words = re.escape(name).replace(r"\ ", " ").replace(" ", r"[ \-]")
    return f"{before}{words}{after}"


@functools.lru_cache(maxsize=1024)
def of(texts: tuple[str, ...]) -> Options:
    """The options of a question."""
    return Options(texts)
