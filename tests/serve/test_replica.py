"""The replica before a stand-in of the server: answers as text, refusals without the request's own words."""

import asyncio
import json
from types import SimpleNamespace

import pydantic
import pytest

from infra.errors import ClusterError
from serve import replica as replica_module
from serve.replica import ModelReplica


class ChatRequest(pydantic.BaseModel):
    model: str
    temperature: float = 0


class ChatAnswer(pydantic.BaseModel):
    text: str


class ErrorAnswer(pydantic.BaseModel):
    error: dict[str, object]

    def __init__(self, message, code):
        super().__init__(error={"message": message, "code": code})
        object.__setattr__(self, "error", SimpleNamespace(message=message, code=code))


class Server:
    """Stands for Ray Serve LLM's server."""

    def __init__(self, *pieces):
        self._pieces = pieces

    async def chat(self, request):
        async def pieces():
            for piece in self._pieces:
                if isinstance(piece, Exception):
                    raise piece
                yield piece

        return pieces()


def replica(*pieces):
    made = object.__new__(ModelReplica)
    made._engine = SimpleNamespace(REQUESTS={"chat": ChatRequest}, ErrorResponse=ErrorAnswer)
    made._server = Server(*pieces)
    return made


def answer(made, **fields):
    status, text = asyncio.run(made.answer("chat", {"model": "m"} | fields))
    return status, json.loads(text)


def test_whole_answer_is_its_json():
    assert answer(replica(ChatAnswer(text="mill"))) == (200, {"text": "mill"})


def test_stream_joins_what_arrived_together():
    async def read():
        made = replica(["data: 1\n\n", "data: 2\n\n"], "data: [DONE]\n\n")
        return [piece async for piece in made.stream("chat", {"model": "m"})]

    assert asyncio.run(read()) == [(200, "data: 1\n\ndata: 2\n\n"), (200, "data: [DONE]\n\n")]


def test_error_of_the_engine_keeps_its_code():
    status, body = answer(replica(ErrorAnswer("too long", 400)))
    assert (status, body["error"]["message"], body["error"]["type"]) == (400, "too long", "BadRequestError")


def test_invalid_request_is_refused_without_repeating_it():
    status, body = answer(replica(), temperature="PATIENT 7")
    assert status == 400
    assert "temperature" in body["error"]["message"]
    assert "PATIENT" not in json.dumps(body)


def test_value_that_the_engine_refuses_is_the_requests_fault():
    assert answer(replica(ValueError("temperature must be non-negative")))[0] == 400


def test_engine_that_says_nothing_is_our_fault():
    assert answer(replica())[0] == 500


def test_error_that_is_ours_is_not_hidden():
    with pytest.raises(RuntimeError):
        answer(replica(RuntimeError("broken")))


def importing(monkeypatch, *outcomes):
    """Imports that raise the errors among the outcomes in turn, and return what is none."""
    remaining = list(outcomes)

    def import_module(name):
        assert name == "serve.engine"
        outcome = remaining.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(replica_module.importlib, "import_module", import_module)


def test_replicas_that_register_ray_s_parts_at_the_same_moment_both_get_their_engine(monkeypatch):
    importing(monkeypatch, *[ValueError("kv_connector_backend 'MultiConnector' is already registered.")] * 4, "engine")
    assert replica_module.import_engine() == "engine"


def test_any_other_trouble_of_the_import_is_not_tried_again(monkeypatch):
    importing(monkeypatch, ValueError("no such model"), "engine")
    with pytest.raises(ValueError, match="no such model"):
        replica_module.import_engine()


def test_an_import_that_never_succeeds_is_one_clear_error(monkeypatch):
    importing(monkeypatch, *[ValueError("x is already registered")] * 20)
    with pytest.raises(ClusterError, match="deploy again"):
        replica_module.import_engine()
