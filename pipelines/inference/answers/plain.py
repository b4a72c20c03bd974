"""Text -> forms in which two spellings of one thing are the same: what is normalised is normalised on both sides."""

import re
import unicodedata

_QUOTES = {**dict.fromkeys("‘’ʼ´′", "'"), **dict.fromkeys("“”„«»″", '"')}
_DASHES = dict.fromkeys("‐‑‒–—―−－", "-")
_BRACKETS = dict(zip("【】「」『』〔〕〖〗《》", "[][][][][][]", strict=True))
_SPACES = dict.fromkeys("\t\r\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\u200b\ufeff", " ") | dict.fromkeys(
    "\x85\u2028\u2029\v\f", "\n"
)
_FULL_WIDTH = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
_MARKS = dict.fromkeys("*_`$#|✅✔☑✓➡👉🔹🎯️•▶►■◆★⭐", " ")
_SAME = str.maketrans(_QUOTES | _DASHES)
_EVEN = str.maketrans(_FULL_WIDTH | _QUOTES | _DASHES | _BRACKETS | _SPACES | _MARKS | {"→": ">", "⇒": ">", "İ": "I"})
_HTML = re.compile(  # capitals alone may be options: `<B>`
    r"</?(?:[bipsu]|em|strong|span|div|code|pre|h[1-6]|li|ul|ol|font|mark|center|td|tr|table|br|sub|sup|BR|EM) ?/?>"
    r"|</[BIPU]>|\[/?INST\]"
)
_WRAPPED = re.compile(
    r"\\(?:text(?:bf|rm|it|sf|tt)?|math(?:rm|bf|it|sf)|bf|rm|boldsymbol|bm|displaystyle|quad|[()\[\],;! ])|[{}]"
)
_FENCE = re.compile(r"^ *(?:`{3}|~{3})\w{0,12} *$", re.MULTILINE)
_LINE_START = re.compile(r"^[ >]*(?:[-+] )?", re.MULTILINE)
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda", "mu", "nu", "xi", "pi"),
    *("rho", "sigma", "tau", "phi", "chi", "psi", "omega"),
)
_LATEX = {
    **{
        name: unicodedata.lookup(f"GREEK SMALL LETTER {'LAMDA' if name == 'lambda' else name.upper()}")
        for name in _GREEK
    },
    **{"Delta": "Δ", "Omega": "Ω", "Sigma": "Σ", "times": "×", "pm": "±", "leq": "≤", "le": "≤", "geq": "≥", "ge": "≥"},
    **{
        "circ": "°",
        "degree": "°",
        "sim": "~",
        "approx": "≈",
        "cdot": "·",
        "AA": "Å",
        "lt": "<",
        "gt": ">",
        "infty": "∞",
    },
}
_COMMAND = re.compile(r"\\([A-Za-z]{1,12})\b ?|\\(?=[%#&$_])")
_GREEK_NAME = re.compile(r"\b(?:alpha|beta|gamma|delta|theta|sigma|kappa|lambda)\b", re.IGNORECASE)
_LATEX_SPACE = re.compile(r"\\[,;!: ]|(?<=\d)~(?=\\)")
_BOXED = re.compile(r"\\boxed")
_DRAWN = re.compile(r"[*_`$^{}\\]")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_MICRO = re.compile(r"(?<=\d)( ?)u(?=(?:m|g|l|s|mol|M|L|A|V|W)\b)")
_LENGTH = re.compile(r"(?<=\d)( ?)(?:(?P<power>micro|nano|milli|centi)met(?:er|re)s?|microns?)\b")
_SHORT_POWER = {"micro": "μ", "nano": "n", "milli": "m", "centi": "c"}
_PERCENT = re.compile(r" ?(?:%|\bper ?cent\b)")
_COMPARED = str.maketrans({"≤": "<=", "≥": ">=", "⩽": "<=", "⩾": ">=", "×": "x", "∼": "~", "≈": "~"})
_JOINED = re.compile(r"(?<=[\w'])-(?=[^\W\d_])")
_ZEROS = re.compile(r"(?<=\d)\.0{1,8}(?![\d.])")
_RANGE = re.compile(r"(?<=\d)(?: to | - )(?=\d)")
_ENDS = " .,;:!\"'"


def even(text: str) -> str:
    """A text of the same length with blanks in the place of emphasis and markup, and one form of quotes and brackets.

    Its places are those of the text itself.
    """
    text = _FENCE.sub(_blank, text).translate(_EVEN)
    text = _WRAPPED.sub(_blank, _HTML.sub(_blank, text))
    return _LINE_START.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    return " " * len(found[0])


def as_written(text: str) -> str:
    """A text in one form of each character, with single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def folded(text: str) -> str:
    """The same without regard to case."""
    return as_written(text).casefold()


def unmarked(text: str) -> str:
    """A text without emphasis, formulas' markup and thousands' commas; one form for characters of one meaning."""
    text = _COMMAND.sub(_character, _LATEX_SPACE.sub(" ", _BOXED.sub("", text))) if "\\" in text else text
    text = unicodedata.normalize("NFKC", _DRAWN.sub("", text)).translate(_SAME).translate(_COMPARED)
    text = _GREEK_NAME.sub(lambda name: _LATEX[name[0].lower()], text)
    text = _LENGTH.sub(lambda unit: f"{unit[1]}{_SHORT_POWER[unit['power'] or 'micro']}m", _RANGE.sub("-", text))
    return " ".join(_MICRO.sub(r"\1μ", _PERCENT.sub("%", _ZEROS.sub("", _THOUSANDS.sub("", text)))).split())


def _character(command: re.Match[str]) -> str:
    return _LATEX.get(command[1] or "", "")


def loose(text: str) -> str:
    """The same without regard to case."""
    return unmarked(text).casefold()


def solid(text: str) -> str:
    """A form without blanks, hyphens within words, and marks around it."""
    return _JOINED.sub("", text).replace(" ", "").strip(_ENDS)
