"""The replica before a stand-in of the server: answers as text, refusals without the request's own words."""

import asyncio
import json
from types import SimpleNamespace
from unittest.mock import patch

import pydantic
import pytest

from infra.errors import ClusterError
from serve.engine import replica as replica_module
from serve.engine.replica import ModelReplica


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
    async def start(llm_config):
        return Server(*pieces)

    engine = SimpleNamespace(
        REQUESTS={"chat": ChatRequest}, ErrorResponse=ErrorAnswer, llm_config=lambda *settings: None, start=start
    )
    made = ModelReplica.__new__(ModelReplica)
    with patch.object(replica_module, "import_engine", lambda: engine):
        asyncio.run(made.__init__(None, None, {}, 0, None))  # as Serve makes one
    return made


def answer(made, **fields):
    status, text = asyncio.run(made.answer("chat", {"model": "m"} | fields))
    return status, json.loads(text)


def test_whole_answer_is_its_json():
    assert answer(replica(ChatAnswer(text="mill"))) == (200, {"text": "mill"})


def test_stream_joins_what_arrived_together():
    made = replica(["data: 1\n\n", "data: 2\n\n"], "data: [DONE]\n\n")

    async def read():
        return [piece async for piece in made.stream("chat", {"model": "m"})]

    assert asyncio.run(read()) == [(200, "data: 1\n\ndata: 2\n\n"), (200, "data: [DONE]\n\n")]


def test_error_of_the_engine_keeps_its_code_and_what_it_says_of_the_context():
    said = "This model's maximum context length is 64 tokens. However, you requested 4 output tokens and your prompt "
    status, body = answer(replica(ErrorAnswer(said + "contains 99 input tokens: PATIENT", 400)))
    assert (status, body["error"]["type"]) == (400, "BadRequestError")
    assert body["error"]["message"].startswith("This model's maximum context length is 64 tokens.")
    assert "PATIENT" not in body["error"]["message"]


@pytest.mark.parametrize("code", [400, 422, 500])
def test_error_of_the_engine_does_not_repeat_the_request(code):
    status, body = answer(replica(ErrorAnswer("cannot read data:image/png;base64,PATIENT", code)))
    assert status == code
    assert "PATIENT" not in json.dumps(body)


def test_invalid_request_is_refused_without_repeating_it():
    status, body = answer(replica(), temperature="PATIENT 7")
    assert status == 400
    assert "PATIENT" not in json.dumps(body)


class VLLMClientError(Exception):
    """Has the name of vLLM's own error about a request."""


@pytest.mark.parametrize("kind", [ValueError, UnicodeDecodeError, VLLMClientError])
def test_value_that_the_engine_refuses_is_the_requests_fault(kind):
    error = kind("utf-8", b"", 0, 1, "PATIENT") if kind is UnicodeDecodeError else kind("PATIENT")
    status, body = answer(replica(error))
    assert status == 400
    assert "PATIENT" not in json.dumps(body)


def test_engine_that_says_nothing_is_our_fault():
    assert answer(replica())[0] == 500


@pytest.mark.parametrize("said", ["broken PATIENT", "half a character \ud800 PATIENT"])
@pytest.mark.parametrize("kind", [RuntimeError, TypeError, MemoryError, RecursionError, AssertionError, OverflowError])
def test_whatever_the_engine_raises_is_an_answer_and_its_place_is_logged_without_its_words(kind, said, caplog):
    status, body = answer(replica(kind(said)))
    assert status == 500
    assert "PATIENT" not in json.dumps(body) + caplog.text
    assert f"{kind.__name__} at " in caplog.text


class EngineDeadError(RuntimeError):
    """Has the name of vLLM's error of an engine that has died."""


def test_dead_engine_is_a_503_so_that_clients_ask_again():
    assert answer(replica(EngineDeadError("dead")))[0] == 503


def test_error_in_the_middle_of_a_stream_is_its_last_piece():
    made = replica("data: 1\n\n", RuntimeError("PATIENT"))

    async def read():
        return [piece async for piece in made.stream("chat", {"model": "m"})]

    pieces = asyncio.run(read())
    assert [status for status, _ in pieces] == [200, 500]
    assert "PATIENT" not in pieces[1][1]


def test_error_that_vllm_raises_while_it_decodes_an_image_is_the_requests_fault():
    code = compile(
        "def load():\n    raise SyntaxError('PATIENT')", "/site-packages/vllm/multimodal/media/image.py", "exec"
    )
    names = {}
    exec(code, names)
    try:
        names["load"]()
    except SyntaxError as error:
        damaged = error
    status, body = answer(replica(damaged))
    assert (status, "damaged" in body["error"]["message"]) == (400, True)


def test_half_characters_of_an_answer_are_replaced():
    assert answer(replica('{"text": "a\ud800b"}')) == (200, {"text": "a?b"})


def importing(monkeypatch, *outcomes):
    """Imports that raise or return the outcomes, one after the other."""
    remaining = list(outcomes)

    def import_module(name):
        assert name == "serve.engine.server"
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
