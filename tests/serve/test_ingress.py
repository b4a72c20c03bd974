"""The endpoint before stand-ins of the engines."""

import asyncio
import json

import pytest
from starlette.requests import Request

from serve.admission import MAX_BODY_BYTES
from serve.ingress import Ingress, digest_key
from serve.refusals import Refused

ADAPTER = "base:answer_only-0123456789"


class Engine:
    """Stands for the handle of an engine's replicas; says what it was asked."""

    def __init__(self, name, status=200):
        self.name, self.status = name, status
        self.answer = self.stream = self

    def options(self, stream):
        assert stream
        streaming = Engine(self.name, self.status)
        streaming.remote = streaming.pieces
        return streaming

    async def remote(self, kind, body):
        return self.status, json.dumps({"engine": self.name, "kind": kind, "model": body["model"]})

    async def pieces(self, kind, body):
        yield self.status, "data: 1\n\n"
        yield self.status, "data: [DONE]\n\n"


def request(body=b"", *, key=None):
    headers = [(b"authorization", f"Bearer {key}".encode())] if key else []
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return sent.pop()

    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def ingress(key=None, status=200):
    engines = {"base": Engine("base", status), "teacher": Engine("teacher", status)}
    models = {"base": "base", ADAPTER: "base", "teacher": "teacher"}
    return Ingress(engines, models, digest_key(key) if key else None, ())


def ask(endpoint, body, **headers):
    return asyncio.run(endpoint.chat(request(json.dumps(body).encode(), **headers)))


@pytest.mark.parametrize(("model", "engine"), [("base", "base"), (ADAPTER, "base"), ("teacher", "teacher")])
def test_request_reaches_the_engine_of_its_model(model, engine):
    answer = ask(ingress(), {"model": model, "messages": []})
    assert json.loads(answer.body) == {"engine": engine, "kind": "chat", "model": model}


@pytest.mark.parametrize("model", ["base:answer_only-ffffffffff", "base:../../etc", "bass", "", None, 7, ["base"], {}])
def test_unknown_model_is_not_found(model):
    with pytest.raises(Refused, match="Known: base, ") as refused:
        ask(ingress(), {"model": model, "messages": []})
    assert refused.value.status == 404


def test_models_lists_base_adapters_and_teacher():
    answer = asyncio.run(ingress().models(request()))
    cards = {card["id"]: card for card in json.loads(answer.body)["data"]}
    assert list(cards) == ["base", ADAPTER, "teacher"]
    assert cards[ADAPTER]["parent"] == "base"
    assert json.loads(asyncio.run(ingress().model(ADAPTER, request())).body)["id"] == ADAPTER


def test_engines_refusal_keeps_its_status():
    for stream in (False, True):
        assert ask(ingress(status=400), {"model": "base", "messages": [], "stream": stream}).status_code == 400


def test_stream_arrives_as_server_sent_events():
    async def read():
        answer = await ingress().chat(request(json.dumps({"model": "base", "stream": True}).encode()))
        return answer.media_type, [piece async for piece in answer.body_iterator]

    assert asyncio.run(read()) == ("text/event-stream", ["data: 1\n\n", "data: [DONE]\n\n"])


@pytest.mark.parametrize("key", [None, "wrong", "Bearer secret"])
def test_without_the_key_nothing_is_said(key):
    endpoint = ingress(key="secret")
    for call in (endpoint.models, endpoint.chat, endpoint.completions):
        with pytest.raises(Refused) as refused:
            asyncio.run(call(request(b"{}", key=key)))
        assert refused.value.status == 401


def test_with_the_key_all_is_as_without():
    assert ask(ingress(key="secret"), {"model": "base", "messages": []}, key="secret").status_code == 200


def test_body_above_the_limit_is_refused():
    with pytest.raises(Refused, match="32 MiB") as refused:
        asyncio.run(ingress().chat(request(b" " * (MAX_BODY_BYTES + 1))))
    assert refused.value.status == 413
