"""PMC-VQA's published scorer, for comparison with published numbers only: it credits text that answers nothing."""

import difflib

from pipelines.records import LETTERS

_MOST = 4_000  # characters of a text that are compared; comparing takes their square


def lenient_letter(text: str, options: tuple[str, ...]) -> str | None:
    """The letter of the option that a text is most similar to, as PMC-VQA's own evaluation scores it.

    By the ratio of `difflib.SequenceMatcher`, the first of the highest; None where no character is in common. This is
    no reading: whatever a text says, the nearest option is credited. Of a text only the first 4,000 characters count.
    """
    best, letter = 0.0, None
    for each, option in zip(LETTERS, options, strict=False):
        matcher = difflib.SequenceMatcher(None, option[:_MOST], text[:_MOST])
        if matcher.real_quick_ratio() > best and matcher.quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, letter = ratio, each
    return letter
