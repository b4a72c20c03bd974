"""The errors of the platform: one tree, picklable, so that a Ray worker's error arrives whole at the driver."""

import difflib
from collections.abc import Iterable

from infra.redaction import redacted


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
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(known)}."
