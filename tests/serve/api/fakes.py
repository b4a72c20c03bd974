"""The endpoint on a real socket, before stand-ins of the engines."""

import asyncio
import io
import json
import socket
import threading
from contextlib import contextmanager

from PIL import Image

from serve.api import listener
from serve.api.access_control import AccessControl, digest_key
from serve.api.bodies import BodyReader
from serve.api.fair_queue import FairQueue
from serve.api.ingress import Engine, Ingress
from serve.api.validation import Limits

ADAPTER = "base:answer_only-0123456789"
LIMITS = Limits(max_answer_tokens=4096, max_images=4, max_image_pixels=1 << 22)


class Pending:
    """Stands for Ray's response: awaited or iterated, and cancelled."""

    def __init__(self, handle, answer, pieces):
        self._handle, self._answer, self._pieces = handle, answer, pieces

    def __await__(self):
        return self._answer.__await__()

    def __aiter__(self):
        return self._pieces

    def __anext__(self):
        return self._pieces.__anext__()

    def cancel(self):
        self._answer.close()
        self._handle.cancelled += 1


class Handle:
    """Stands for the handle of an engine's replicas. Says what it was asked, after `seconds`, or fails with `error`."""

    def __init__(self, name="base", status=200, seconds=0.0, error=None):
        self.name, self.status, self.seconds, self.error = name, status, seconds, error
        self.asked, self.cancelled = [], 0
        self.answer = self.stream = self

    def options(self, stream):
        assert stream
        return self

    def remote(self, kind, body):
        self.asked.append((kind, body))
        return Pending(self, self._whole(kind, body), self._pieces())

    async def _whole(self, kind, body):
        await asyncio.sleep(self.seconds)
        if self.error:
            raise self.error
        return self.status, json.dumps({"engine": self.name, "kind": kind, "model": body["model"]})

    async def _pieces(self):
        for piece in ("data: 1\n\n", "data: [DONE]\n\n"):
            yield self.status, piece
            await asyncio.sleep(self.seconds)
            if self.error:
                raise self.error


def ingress(*, key=None, capacity=64, waiting=128, limits=LIMITS, answer_timeout_s=20.0, bodies=None, **of_handle):
    handles = {name: Handle(name, **of_handle) for name in ("base", "teacher")}
    engines = {n: Engine(handle=h, queue=FairQueue(capacity, waiting)) for n, h in handles.items()}
    models = {"base": "base", ADAPTER: "base", "teacher": "teacher"}
    guard = AccessControl(digest_key(key) if key else None)
    made = Ingress(engines, models, guard, limits, answer_timeout_s=answer_timeout_s, bodies=bodies or BodyReader())
    made.handle = handles["base"]
    return made


@contextmanager
def serving(made):
    """The port of an endpoint that listens on loopback until the block ends."""
    listening = listener.listen("127.0.0.1", 0)
    server = listener.server(made.app())
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listening])), daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=20)
        listening.close()
        assert not thread.is_alive()


def exchange(port, sent, *, timeout_s=15.0):
    """All that the endpoint answers to these bytes until it closes, or is silent for so long."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as client:
        client.sendall(sent)
        received = bytearray()
        try:
            while block := client.recv(65536):
                received += block
        except (TimeoutError, ConnectionResetError):
            pass
        return bytes(received)


def post(port, body, *, path="/v1/chat/completions", timeout_s=15.0, **headers):
    """Status, headers in small letters, and body of an answer."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {"Host": f"127.0.0.1:{port}", "Connection": "close", "Content-Length": len(data)} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    answer = exchange(port, f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data, timeout_s=timeout_s)
    return parsed(answer)


def parsed(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(first.split()[1]), headers, body


def chat(text="What is shown?", image=None, **fields):
    parts = [{"type": "text", "text": text}]
    if image is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": image}})
    return {"model": "base", "messages": [{"role": "user", "content": parts}]} | fields


def picture(width=8, height=8, kind="PNG", **how):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), "grey").save(buffer, format=kind, **how)
    return buffer.getvalue()
