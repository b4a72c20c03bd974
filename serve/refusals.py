"""Why a request gets no answer, in the form that OpenAI's clients read."""

import json
from http import HTTPStatus


class Refused(Exception):  # noqa: N818 - it is the request that is wrong
    """A request that no engine sees: an HTTP status and the reason."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def as_json(status: int, message: str) -> str:
    """The body of an error answer."""
    kind = HTTPStatus(status).phrase.replace(" ", "") + "Error"
    return json.dumps({"error": {"message": message, "type": kind, "code": int(status)}})
