"""What a teacher wrote -> its thoughts, its text, and how many tokens in it stood for images."""

import re

_STRAY = re.compile(
    r"<\|(?:vision_start|vision_end|vision_pad|image_pad|video_pad|image|im_start|im_end|endoftext)\|>|<image>|<video>"
)
_OPENING, _CLOSING = "<think>", "</think>"


def parse(written: str) -> tuple[str, str, int]:
    """Thoughts, text, and the number of special tokens that were taken out of both.

    A thinking teacher's prompt opens the thoughts itself, so that what it writes holds the closing tag alone. A text
    whose thoughts never end has no answer behind them: all of it is thoughts.
    """
    # Half of a character, where an answer was cut off inside it, is no text that a table can hold.
    written = written.encode("utf-8", "replace").decode()
    cleaned, num_stray = _STRAY.subn("", written)
    before, closing, after = cleaned.rpartition(_CLOSING)
    if closing:
        return before.replace(_OPENING, "").replace(_CLOSING, "").strip(), after.strip(), num_stray
    if after.lstrip().startswith(_OPENING):
        return after.replace(_OPENING, "").strip(), "", num_stray
    return "", after.strip(), num_stray
