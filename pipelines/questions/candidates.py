"""A row's fields -> a candidate: a question whose images are not decoded yet, or the reason why the row gives none."""

import dataclasses
import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any, ClassVar

from pipelines.records import LETTERS, Split
from pipelines.records.record import Record

REJECTED = "rejected"  # for what the row says
QUARANTINED = "quarantined"  # for an image that cannot be used
MIN_OPTIONS = 2
MAX_CHARACTERS = 20_000  # of a question, an option or a caption; the longest real ones have a tenth of it
MAX_IMAGES = 32
MAX_NAME = 1024  # characters of an image's name
_SPLITS = {  # the words that tables use for splits; each means one of them only
    **dict.fromkeys(("train", "training"), Split.TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), Split.VALIDATION),
    **dict.fromkeys(("test", "testing"), Split.TEST),
}
_CHAT_MARKUP = re.compile(r"<\|[^|<>\s]{1,40}\|>")  # would end a turn, or mean an image, in a chat template
_KEPT_CONTROLS = frozenset("\t\n\r\v\f\x1c\x1d\x1e\x1f\x85")  # white space in Python; becomes a blank or a line's end
_INVISIBLE_RANGES = (  # controls, and characters without width: joiners, direction, byte order and language marks
    *((0, 0x20), (0x7F, 0xA0), (0xAD, 0xAE), (0x200B, 0x200C), (0x200E, 0x2010), (0x202A, 0x202F), (0x2060, 0x2070)),
    *((0xFEFF, 0xFF00), (0xE0000, 0xE0080)),
)
_INVISIBLE = dict.fromkeys(
    code for start, stop in _INVISIBLE_RANGES for code in range(start, stop) if chr(code) not in _KEPT_CONTROLS
)
_COMPARED = "<>=≤≥"
# Words without punctuation. Signs of numbers and at a word's end stay, since nothing else distinguishes `< 5 mm` from
# `> 5 mm`, or ER+ from ER-. Hyphens go, so that T1-weighted equals T1 weighted.
_WORD = re.compile(
    r"(?:[<>≤≥]=?(?=[+\-]?\.?\d))?(?:(?<!\w)[+\-±](?=\.?\d))?(?:(?<![\w.])\.(?=\d))?"  # a number's sign
    r"[^\W_]+(?:(?<=\d)\.\d+)*(?:[+\-%](?!\w))?"
)


class RejectedError(Exception):
    """A row that gives no question; the message is the reason."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Record):
    """A row as its source's reader understood it.

    status, reason: whether and why it gives no question; empty if it may give one. images: as the table names them.
    locations: the path or URI of each. crops: `left,top,right,bottom` (pixels) for each image, empty for all of it.
    stretch_tiff: see `decoding.normalise`. read_as: names of what was not written in the plain way. exact_key,
    text_key, options_key, gold_key: 64-bit digests of text and options as they are, of the normalised text, of the
    normalised options in any order, and of the right one.
    """

    stem: ClassVar[str] = "candidates"

    source: str
    file: str
    row: int
    status: str = ""
    reason: str = ""
    split: str = ""
    stratum: str = ""
    topic: str = ""
    images: tuple[str, ...] = ()
    locations: tuple[str, ...] = ()
    crops: tuple[str, ...] = ()
    stretch_tiff: bool = False
    text: str = ""
    options: tuple[str, ...] = ()
    gold: str = ""
    figure: str = ""
    article: str = ""
    caption: str = ""
    evaluation_only: bool = False
    read_as: tuple[str, ...] = ()
    exact_key: int = 0
    text_key: int = 0
    options_key: int = 0
    gold_key: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a row comes from: its source's name, its table's file name and its number there, from 1; and the split that
    the recipe gives all rows of the table, None if it gives none."""

    source: str
    file: str
    row: int
    split: Split | None = None

    def rejected(self, reason: str) -> Candidate:
        """The row as a candidate that gives no question."""
        return Candidate(source=self.source, file=self.file, row=self.row, status=REJECTED, reason=reason)

    def candidate(
        self, *, split: str, images: Sequence[str], text: str, options: Sequence[str], gold: str, **others: Any
    ) -> Candidate:
        """The row as a candidate.

        split: as the table calls it. images: names of at least one. gold: the right option's letter. others: further
        fields of Candidate. Raises RejectedError where the row cannot be a question.
        """
        options = tuple(options)
        check_options(options)
        if gold not in tuple(LETTERS[: len(options)]):
            raise RejectedError("answer_is_no_option")
        if not text:
            raise RejectedError("question_missing")
        if split.casefold() not in _SPLITS:
            raise RejectedError("unknown_split")
        named = _SPLITS[split.casefold()]
        read_as = (
            *others.pop("read_as", ()),
            *([] if named == split.casefold() else [f"split_{split.casefold()}_as_{named}"]),
        )
        if not images or not all(images):
            raise RejectedError("image_missing")
        if len(images) > MAX_IMAGES:
            raise RejectedError("too_many_images")
        if any(len(image) > MAX_NAME for image in images):
            raise RejectedError("image_name_unreadable")
        _check_texts(text, *options, *(value for value in others.values() if isinstance(value, str)))
        _check_utf8(*images)
        plain_options = [normalised(option) for option in options]
        return Candidate(
            source=self.source,
            file=self.file,
            row=self.row,
            split=named,
            read_as=read_as,
            images=tuple(images),
            crops=tuple(others.pop("crops", ("",) * len(images))),
            text=text,
            options=options,
            gold=gold,
            exact_key=key(text, *options),
            text_key=key(normalised(text)),
            options_key=key(*sorted(plain_options)),
            gold_key=key(plain_options[LETTERS.index(gold)]),
            **others,
        )


def check_options(options: Sequence[str]) -> None:
    """Raise RejectedError unless these can be a question's options."""
    if not all(options):
        raise RejectedError("option_missing")
    if len(options) < MIN_OPTIONS:
        raise RejectedError("too_few_options")
    if len(options) > len(LETTERS):
        raise RejectedError("too_many_options")
    if any(len(option.splitlines()) > 1 for option in options):  # an answer's line could not hold it
        raise RejectedError("option_has_line_breaks")
    if len({option.casefold() for option in options}) < len(options):
        raise RejectedError("options_repeated")


def _check_texts(*texts: str) -> None:
    if any(len(text) > MAX_CHARACTERS for text in texts):
        raise RejectedError("text_too_long")
    if _CHAT_MARKUP.search("\n".join(texts)):
        raise RejectedError("chat_markup_in_text")
    _check_utf8(*texts)


def _check_utf8(*texts: str) -> None:
    try:
        "\n".join(texts).encode()
    except UnicodeEncodeError as error:  # half a surrogate pair, which stands for bytes that were not UTF-8
        raise RejectedError("text_is_not_utf8") from error


def line(text: str) -> str:
    """A text on one line: white space of every kind becomes one blank, and invisible characters are removed."""
    return " ".join((text if text.isprintable() else text.translate(_INVISIBLE)).split())


def lines(text: str) -> str:
    """The same for each line of a text; empty lines are removed."""
    return "\n".join(kept for each in text.splitlines() if (kept := line(each)))


def normalised(text: str) -> str:
    """The words and numbers of a text, case-folded and in NFKC: what two spellings of it have in common.

    Where nothing else is left, as for the options `+` and `-`, the text itself.
    """
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").split())
    for sign in _COMPARED:
        folded = folded.replace(f"{sign} ", sign)
    return " ".join(_WORD.findall(folded)) or folded


def key(*parts: str) -> int:
    """A 64-bit digest of some texts, signed as Arrow's and numpy's int64."""
    digest = hashlib.blake2b("\x1f".join(parts).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
