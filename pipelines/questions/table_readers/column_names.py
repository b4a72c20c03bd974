"""The names that a table gives its columns -> those that its reader knows, in any case and with blanks or hyphens
instead of underscores."""

import functools
import re
from collections.abc import Iterable

from infra.errors import InputError

_BETWEEN_WORDS = re.compile(r"[\s_\-]+")
_SHORT = 100  # characters; no reader knows a longer name
_SHOWN = 300  # characters of a table's names


def plain(name: str) -> str:
    """The plain spelling of a name: `option_a` for `Option A`."""
    return _plain(name) if len(name) < _SHORT else name


@functools.lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return _BETWEEN_WORDS.sub("_", name.replace("\ufeff", "").strip().casefold())


def named(names: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Known name -> the table's own, for those that it has: the same, or else the only one in another spelling.

    Raises InputError where several could be meant.
    """
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(plain(name), []).append(name)
    found = {}
    for wanted in known:
        spellings = by_plain.get(plain(wanted), [])
        if len(spellings) > 1 and wanted not in spellings:
            raise InputError(f"several columns may be {wanted!r}: {', '.join(map(repr, spellings))}")
        if spellings:
            found[wanted] = wanted if wanted in spellings else spellings[0]
    return found


def shown(names: Iterable[str]) -> str:
    """A table's names for a message, escaped and shortened."""
    text = ", ".join(ascii(name)[1:-1] for name in names)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
