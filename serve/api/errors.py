"""Why a request gets no answer, in the form that OpenAI's clients read."""

import json
import traceback
from http import HTTPStatus


class Refused(Exception):  # noqa: N818 - it is the request that is wrong
    """A request that no engine answers: an HTTP status, and a message that repeats only names from the request.

    retry_after_s: when a client may ask again; None where that would not help.
    """

    def __init__(self, status: HTTPStatus, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(status, message, retry_after_s)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    def headers(self) -> dict[str, str]:
        """The headers that go with it."""
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}


def as_json(status: int, message: str) -> str:
    """The body of an error answer."""
    kind = HTTPStatus(status).phrase.replace(" ", "") + "Error"
    return json.dumps({"error": {"message": message, "type": kind, "code": int(status)}})


def place_of(error: BaseException) -> str:
    """An error for a log: its type and where it was raised, without its message, which may repeat a prompt or image."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return f"{type(error).__name__} at " + " < ".join(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))
