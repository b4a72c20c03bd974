"""The errors of the platform: one tree, picklable, so that a Ray worker's error arrives whole at the driver."""

import difflib
import re
from collections.abc import Iterable, Iterator

from infra.redaction import redacted

_ERROR_LINE = re.compile(
    r"\s*(?:\(\w+ pid=\d+\) )?(?!ray\.)[\w.]*(?:Error|Exception): \S"
)  # the last line of a traceback


class PreceptorError(Exception):
    """An error that the user can mend: printed as its message alone, without a traceback.

    The message says what was wrong, with the value, and what to type instead. Credentials in it are redacted.
    """

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redacted(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(PreceptorError):
    """A recipe, a `--set` or an argument is wrong; nothing was started."""


class InputError(PreceptorError):
    """A file, table, image or model folder of the user's cannot be used as it is."""


class ArtifactError(PreceptorError):
    """A sealed artifact is missing, was changed after it was sealed, or cannot be written."""


class ClusterError(PreceptorError):
    """Ray, an engine or the endpoint did not start or went away."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind when it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """` Did you mean X?` for the closest known name, or nothing; then the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {str(close[0])!r}?" if close else ""
    return f"{hint} Known: {', '.join(known) or 'none'}."


def prerequisite(error: BaseException | None) -> PreceptorError | None:
    """The error that the user can mend, possibly wrapped by an engine's errors; None if there is none."""
    for cause in causes(error):
        if isinstance(cause, PreceptorError):
            return cause
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on; Ray keeps a remote cause in an attribute of that name."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # an error can be raised from itself
        seen.add(id(error))
        yield error
        cause = getattr(error, "cause", None)
        error = cause if isinstance(cause, BaseException) else error.__cause__ or error.__context__


def in_one_line(error: BaseException) -> str:
    """The first error of all: engines put a remote traceback into their message, and its first error is the cause."""
    found = list(causes(error))
    for cause in reversed(found):
        errors = [line.strip() for line in str(cause).splitlines() if _ERROR_LINE.match(line)]
        if errors:
            return errors[0]
    innermost = found[-1]
    lines = str(innermost).strip().splitlines() or [""]
    return f"{type(innermost).__name__}: {lines[-1]}"
