"""Text -> what it marks as its answer, by tags, in JSON, or in a box."""

import json
import re
from collections import deque
from collections.abc import Iterator

_TAGS = r"(?:answer|ans|final|final_answer|finalanswer|choice|option|solution|response|conclusion)"
_TAG = re.compile(rf"<{_TAGS}>(?P<said>.{{0,600}}?)(?:</?{_TAGS}>|\Z)", re.IGNORECASE | re.DOTALL)
_BOX_TOKENS = re.compile(r"<\|begin_of_box\|>(?P<said>.{0,600}?)(?:<\|end_of_box\|>|\Z)", re.DOTALL)
_KEY = re.compile(
    r"[\"'](?:(?:final|correct|my|best|selected|chosen|predicted|right|the)?[_ \-]?"
    r"(?:answer|ans|choice|option|prediction|letter|selection|label|response)"
    r"(?:[_ \-]?(?:letter|choice|option|label|key|id|text|value))?|antwort|respuesta|réponse|"
    r"resposta|risposta|答案|答え|ответ|정답)[\"'] {0,4}: {0,4}\n? {0,8}",
    re.IGNORECASE,
)
_STRING = re.compile(r"\"((?:[^\"\\\n]|\\.){0,600})(?:\"|\Z)|'((?:[^'\\\n]|\\.){0,600})(?:'|\Z)")
_LIST = re.compile(r"\[([^\[\]]{0,600})\]")
_BARE = re.compile(r"[^\s,}\]]{1,40}")
_BOXED = re.compile(r"\\(?:boxed|fbox|framebox)\s?\{")
_MOST_IN_BOX = 600


def tags(text: str) -> tuple[int, str] | None:
    """Place and content of the last `<answer>` or the like; of an opened one all that follows."""
    return _last(_TAG.finditer(text)) if "<" in text else None


def values(text: str) -> tuple[int, list[str]] | None:
    """Place of the last object's answer, and what its keys for an answer hold; several for a list."""
    found = list(_KEY.finditer(text)) if '"' in text or "'" in text else []
    if not found:
        return None
    opened = text.rfind("{", 0, found[-1].start())
    inside = [each for each in found[-8:] if each.start() > opened]
    return inside[0].start(), [value for each in inside for value in _value(text, each.end())]


def _value(text: str, place: int) -> Iterator[str]:
    if found := _STRING.match(text, place):
        yield _decoded(found[1] if found[1] is not None else found[2])
    elif found := _LIST.match(text, place):
        yield from (_decoded(each[1] or each[2] or "") for each in _STRING.finditer(found[1]))
    elif found := _BARE.match(text, place):
        yield found[0]


def _decoded(value: str) -> str:
    try:
        return str(json.loads(f'"{value}"'))
    except ValueError:
        return value


def boxes(text: str) -> tuple[int, str] | None:
    """Place and content of the last box of a formula, or of a model that has tokens for it."""
    found = _last(_BOX_TOKENS.finditer(text)) if "<|begin_of_box" in text else None
    opened = list(_BOXED.finditer(text))[-1:] if "\\" in text else []
    for each in opened:
        found = each.start(), _braced(text[each.end() : each.end() + _MOST_IN_BOX])
    return found


def _braced(text: str) -> str:
    """The text up to the brace that closes it."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return text[:place]
    return text


def _last(found: Iterator[re.Match[str]]) -> tuple[int, str] | None:
    last = next(iter(deque(found, maxlen=1)), None)
    return (last.start(), last["said"]) if last else None
