"""Names of figures and articles as data sets write them -> ids that are equal where the same one is meant."""

import re
import unicodedata

_ARTICLE = re.compile(r"\s*PMC[\s_-]?0*(\d{1,12})(?!\d)", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"\.(?:jpe?g|png|tiff?|gif|bmp|webp)\Z", re.IGNORECASE)
# `Fig2`, `fig-02`, `Figure_2`, `f005`, `g003`, `gr3`; what follows, such as `_41` or `b`, is a part of the figure.
_NUMBER = re.compile(r"(?<![^\W_])(?:figure|fig|gr|f|g)[\s._-]{0,2}0{0,6}(\d{1,4})(?!\d)", re.IGNORECASE)


def article_id(text: str) -> str:
    """An article's id: `PMC8253867` in any case and with leading zeros; any other text in one spelling."""
    article = _ARTICLE.fullmatch(text.strip())
    return f"pmc{article[1]}" if article else _plain(text)


def figure_id(text: str) -> str:
    """A figure's id, given its name or its file's: `pmc8253867 figure 2` for `PMC8253867_Fig2_41.jpg`, which is a part
    of it, and for names with a journal's prefix. Where no article or number is found, the text in one spelling."""
    stem = _IMAGE_SUFFIX.sub("", text.replace("\\", "/").rpartition("/")[2])
    article = _ARTICLE.match(stem)
    numbers = _NUMBER.findall(stem[article.end() :]) if article else []
    return f"pmc{article[1]} figure {numbers[-1]}" if article and numbers else _plain(text)


def article_of_figure(text: str) -> str:
    """The article that a figure's name begins with, as `PMC8253867`; empty where it has none."""
    article = _ARTICLE.match(text.replace("\\", "/").rpartition("/")[2])
    return f"PMC{article[1]}" if article else ""


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
