"""JSON from an untrusted file -> its value, or an error that says what is wrong, in bounded memory and time."""

import json
import reprlib
from pathlib import Path
from typing import Any

from infra.errors import InputError

_QUOTED_CHARACTERS = 80
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = _QUOTED_CHARACTERS


def quoted(value: Any) -> str:
    """A value as an error message shows it: at most 80 characters, whatever it is."""
    text = _REPR.repr(value)
    return text if len(text) <= _QUOTED_CHARACTERS else f"{text[: _QUOTED_CHARACTERS - 3]}..."


def read_json(file: Path, max_bytes: int) -> dict[str, Any]:
    """The JSON object in a file.

    Raises InputError when the file is larger than max_bytes, and as `parse_json` does; OSError when it cannot be read.
    """
    if (size := file.stat().st_size) > max_bytes:
        raise InputError(f"{file} has {size} bytes; at most {max_bytes} are read. Put the file itself there.")
    with file.open("rb") as stream:
        return parse_json(file, stream.read(max_bytes))


def parse_json(file: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in these bytes. file: where they come from, for the error.

    Raises InputError for what is no JSON object, and for what different readers of JSON understand differently: a name
    that comes twice, NaN and infinity, half of a surrogate pair, nesting that overflows a stack.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_unique_names, parse_constant=_refuse_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # finds 1e999 and half surrogate pairs
    except RecursionError:
        raise InputError(f"{file} is nested too deeply to be read. Save it again from where it was made.") from None
    except ValueError as error:
        reason = str(error) if not isinstance(error, UnicodeError) else "it is not UTF-8"
        raise InputError(f"{file} is no JSON: {reason}. Save it again from where it was made.") from None
    if not isinstance(value, dict):
        raise InputError(f"{file} holds {quoted(value)} where a JSON object belongs.")
    return value


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for index, name in enumerate(names) if name in names[:index])
        raise ValueError(f"{quoted(twice)} comes twice in one object")
    return value


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no number")
