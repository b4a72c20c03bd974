"""The endpoint over a real socket: which request reaches which engine, and what the others are answered."""

import asyncio
import contextlib
import json
import socket
import time
from unittest.mock import MagicMock

import pytest
from uvicorn.server import ServerState

from serve.api import listener
from serve.api.bodies import BodyReader
from serve.api.schema import MAX_BODY_BYTES
from tests.serve.api.fakes import ADAPTER, chat, exchange, ingress, parsed, post, serving


def get(port, path, **headers):
    named = {"Host": f"127.0.0.1:{port}", "Connection": "close"} | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return parsed(exchange(port, f"GET {path} HTTP/1.1\r\n{head}\r\n".encode()))


def message(body):
    return json.loads(body)["error"]["message"]


@pytest.mark.parametrize(("model", "engine"), [("base", "base"), (ADAPTER, "base"), ("teacher", "teacher")])
def test_request_reaches_the_engine_of_its_model(model, engine):
    with serving(ingress()) as port:
        status, _, body = post(port, chat(model=model))
    assert (status, json.loads(body)) == (200, {"engine": engine, "kind": "chat", "model": model})


@pytest.mark.parametrize("model", ["base:answer_only-ffffffffff", "base:../../etc", "bass", "b" * 256])
def test_unknown_model_is_not_found_and_its_name_is_not_repeated_at_length(model):
    with serving(ingress()) as port:
        status, _, body = post(port, chat(model=model))
    assert status == 404
    assert "Known: base, " in message(body)
    assert len(body) < 600


def test_models_lists_base_adapters_and_teacher():
    with serving(ingress()) as port:
        cards = {card["id"]: card for card in json.loads(get(port, "/v1/models")[2])["data"]}
        assert list(cards) == ["base", ADAPTER, "teacher"]
        assert cards[ADAPTER]["parent"] == "base"
        assert json.loads(get(port, f"/v1/models/{ADAPTER}")[2])["id"] == ADAPTER


def test_what_reaches_an_engine_is_what_was_validated():
    made = ingress()
    with serving(made) as port:
        doubled = json.dumps(chat(temperature=0)).replace('"temperature": 0', '"temperature": 0, "temperature": 1')
        assert post(port, doubled.encode())[0] == 200
    assert made.handle.asked == [("chat", chat(temperature=1.0))]


def test_engines_refusal_keeps_its_status():
    with serving(ingress(status=400)) as port:
        assert [post(port, chat(stream=stream))[0] for stream in (False, True)] == [400, 400]


def test_stream_arrives_as_server_sent_events():
    with serving(ingress()) as port:
        status, headers, body = post(port, chat(stream=True))
    assert (status, headers["content-type"].partition(";")[0]) == (200, "text/event-stream")
    assert b"data: 1\n\n" in body
    assert b"data: [DONE]\n\n" in body


def test_replica_that_is_lost_is_a_503_that_says_when_to_ask_again_and_nothing_of_the_request():
    error = RuntimeError("PATIENT \ud800")
    with serving(ingress(error=error)) as port:
        status, headers, body = post(port, chat())
        streamed = post(port, chat(stream=True))
    assert (status, headers["retry-after"]) == (503, "5")
    assert b"PATIENT" not in body
    assert b"PATIENT" not in streamed[2]
    assert b'"code": 503' in streamed[2]


def test_a_fault_of_ours_is_a_500_that_is_logged_without_what_it_says(caplog):
    made = ingress()
    made.handle.remote = lambda kind, body: 1 / 0
    with serving(made) as port:
        status, _, body = post(port, chat(text="PATIENT"))
    assert (status, json.loads(body)["error"]["code"]) == (500, 500)
    assert "ZeroDivisionError at " in caplog.text
    assert "PATIENT" not in caplog.text


def test_answer_that_takes_too_long_is_ended_and_its_slot_is_free_again():
    made = ingress(seconds=5, answer_timeout_s=0.3, capacity=1)
    with serving(made) as port:
        assert post(port, chat())[0] == 504
        made.handle.seconds = 0
        assert post(port, chat())[0] == 200
    assert made.handle.cancelled == 1


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_disconnects_frees_its_slot(stream):
    made = ingress(seconds=30, capacity=1)
    with serving(made) as port:
        body = json.dumps(chat(stream=stream)).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            deadline = time.monotonic() + 10
            while not made.handle.asked and time.monotonic() < deadline:
                time.sleep(0.01)
        made.handle.seconds = 0
        assert post(port, chat(), timeout_s=10)[0] == 200
    assert made.handle.cancelled == 1


def test_client_that_does_not_read_its_answer_frees_its_slot_when_time_is_up():
    made = ingress(capacity=1, answer_timeout_s=1.0)

    async def endless():
        while True:
            yield 200, "data: " + "x" * (1 << 16) + "\n\n"

    made.handle._pieces = endless
    with serving(made) as port:
        body = json.dumps(chat(stream=True)).encode()
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            time.sleep(2.5)
            assert post(port, chat(), timeout_s=5)[0] == 200


def test_a_stream_ends_when_its_time_since_it_was_admitted_is_up():
    made = ingress(answer_timeout_s=1.0)

    async def slow():
        await asyncio.sleep(0.8)
        while True:
            yield 200, "data: 1\n\n"
            await asyncio.sleep(0.05)

    made.handle._pieces = slow
    with serving(made) as port:
        started = time.monotonic()
        assert post(port, chat(stream=True), timeout_s=10)[0] == 200
        assert time.monotonic() - started < 1.6
    assert made.handle.cancelled == 1


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
def test_connection_whose_answers_are_not_read_is_closed(connection, monkeypatch):
    monkeypatch.setattr("serve.api.listener._UNREAD_TIMEOUT_S", 0.5)
    made = ingress()
    made.handle._whole = lambda kind, body: asyncio.sleep(0, (200, "x" * (32 << 20)))
    with serving(made) as port, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        body = json.dumps(chat()).encode()
        head = f"Host: localhost\r\nConnection: {connection}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n" + head + body)
        time.sleep(2)
        client.settimeout(10)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while block := client.recv(1 << 20):
                received += len(block)
        assert received < 16 << 20


def test_an_answer_that_is_read_slowly_arrives_whole(monkeypatch):
    monkeypatch.setattr("serve.api.listener._UNREAD_TIMEOUT_S", 5.0)
    made = ingress()
    made.handle._whole = lambda kind, body: asyncio.sleep(0, (200, "x" * (8 << 20)))
    with serving(made) as port:
        assert len(post(port, chat())[2]) == 8 << 20


def test_nothing_is_left_of_a_connection_that_breaks_off():
    async def play():
        config = listener.server(ingress().app()).config
        protocol = listener.TimeoutProtocol(config, ServerState(), {})
        protocol.connection_made(MagicMock(is_closing=lambda: False, get_extra_info=lambda name: None))
        protocol.pause_writing()
        protocol.on_response_complete()
        timers = protocol._deadline, protocol._unread_deadline, protocol.timeout_keep_alive_task
        assert all(timers)
        protocol.connection_lost(ConnectionResetError())
        assert all(timer.cancelled() for timer in timers)

    asyncio.run(play())


def test_connections_beyond_the_most_are_closed_before_they_take_all_files(monkeypatch):
    monkeypatch.setattr("serve.api.listener._MAX_CONNECTIONS", 4)
    with serving(ingress()) as port:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(5)]
        with contextlib.suppress(ConnectionResetError):
            assert silent[-1].recv(100) == b""
        for client in silent:
            client.close()


def test_body_above_the_limit_is_refused_whether_it_says_so_or_not():
    with serving(ingress()) as port:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n\r\n"
        status, _, body = parsed(exchange(port, head.encode(), timeout_s=2))
        assert (status, "32 MiB" in message(body)) == (413, True)
        chunk = b"%x\r\n" % (1 << 20) + b" " * (1 << 20) + b"\r\n"
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        status, _, body = parsed(exchange(port, head + chunk * 33, timeout_s=5))
        assert (status, "32 MiB" in message(body)) == (413, True)


def test_four_hundred_half_sent_bodies_hold_up_nobody():
    made = ingress(capacity=4, waiting=4, bodies=BodyReader(read_timeout_s=8))
    with serving(made) as port:
        half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{"
        clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
        for client in clients:
            client.sendall(half)
        started = time.monotonic()
        assert [post(port, chat())[0] for _ in range(20)] == [200] * 20
        assert time.monotonic() - started < 8  # before any of them is given up
        clients[0].settimeout(10)
        assert parsed(clients[0].recv(65536))[0] == 408
        for client in clients:
            client.close()


def test_bodies_together_have_a_limit():
    made = ingress(bodies=BodyReader(max_held_bytes=1 << 20))
    with serving(made) as port:
        half = (
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n" + b"{" * 900_000
        )
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(half)
            time.sleep(0.5)
            status, headers, _ = post(port, chat(text="x" * 500_000))
            assert (status, headers["retry-after"]) == (429, "5")
        time.sleep(0.5)
        assert post(port, chat(text="x" * 500_000))[0] == 200


@pytest.mark.parametrize("half", [b"", b"POST /v1/chat", b"POST / HTTP/1.1\r\nHost: localhost\r\nX-A: "])
def test_headers_that_do_not_arrive_close_the_connection(half, monkeypatch):
    monkeypatch.setattr("serve.api.listener._HEADERS_TIMEOUT_S", 0.5)
    with serving(ingress()) as port:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(half)
            time.sleep(0.3)
            if half:
                client.sendall(b"x")  # more bytes do not put it off
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert time.monotonic() - started < 5


def test_headers_without_end_are_refused():
    with serving(ingress()) as port:
        answer = exchange(port, b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * (1 << 20), timeout_s=5)
        assert parsed(answer)[0] == 400
        assert post(port, chat())[0] == 200


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/docs", "/redoc", "/v1/embeddings", "/metrics", "//v1/models", "/v1/models/../../etc/passwd"]
)
def test_other_paths_are_not_found(path):
    with serving(ingress()) as port:
        status, _, body = get(port, path)
    assert status == 404
    assert "error" in json.loads(body)


def test_the_published_document_is_the_schema_that_admits():
    with serving(ingress()) as port:
        document = json.loads(get(port, "/openapi.json")[2])
    posts = document["paths"]["/v1/chat/completions"]["post"]
    reference = posts["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    assert reference == "#/components/schemas/ChatRequest"
    schemas = document["components"]["schemas"]
    assert schemas["ChatRequest"]["additionalProperties"] is False
    assert set(schemas["TextPart"]["properties"]) == {"type", "text"}
    assert set(schemas["ImageUrl"]["properties"]) == {"url", "detail"}
    referred = {text.partition('"')[0] for text in json.dumps(document).split('"#/components/schemas/')[1:]}
    assert referred <= set(schemas)
