"""What a model wrote -> its thoughts, its text, and how many tokens in it stood for images."""

import re
from collections import deque

_STRAY = re.compile(
    r"<\|(?:vision_start|vision_end|vision_pad|image_pad|video_pad|image|im_start|im_end|endoftext)\|>|<image>|<video>"
)
_TAGS = r"(?:think|thinking|thought|thoughts|reasoning|seed:think)"
_TAG = re.compile(rf"</?{_TAGS}>|◁/?think▷|<\|(?:begin|end)_of_thought\|>|<unused9[45]>")
# An opened `<reasoning>` that never ends is what the prompt asked for, and its answer follows.
_OPENS = re.compile(
    r"\s*(?:<(?:think|thinking|thought|thoughts|seed:think)>|◁think▷|<\|begin_of_thought\|>|<unused94>)"
)
_CLOSES = re.compile(rf"</{_TAGS}>|◁/think▷|<\|end_of_thought\|>|<unused95>")


def end_of_thoughts(written: str) -> tuple[int, bool]:
    """Where the text behind a model's thoughts begins, and whether the thoughts never end.

    A thinking model's prompt may open the thoughts itself, so that what it writes holds the closing tag alone. A text
    whose thoughts never end has no answer behind them: all of it is thoughts.
    """
    closed = next(iter(deque(_CLOSES.finditer(written), maxlen=1)), None)
    start = closed.end() if closed else 0
    return (len(written), True) if _OPENS.match(written, start) else (start, False)


def holds_tag(text: str) -> bool:
    """Whether a text holds a tag that would begin or end thoughts."""
    return _TAG.search(text) is not None


def parse(written: str) -> tuple[str, str, int]:
    """Thoughts, text, and the number of special tokens that were taken out of both."""
    # Half of a character, where an answer was cut off inside it, is no text that a table can hold.
    written = written.encode("utf-8", "replace").decode()
    cleaned, num_stray = _STRAY.subn("", written)
    start, is_open = end_of_thoughts(cleaned)
    if is_open:
        start = len(cleaned)
    return _TAG.sub("", cleaned[:start]).strip(), cleaned[start:].strip(), num_stray
