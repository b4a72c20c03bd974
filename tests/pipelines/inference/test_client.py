import asyncio
import base64
import io
import itertools
import os
import threading
import zipfile

import pytest
from PIL import Image

from infra.digests import digest_bytes
from infra.errors import ArtifactError
from pipelines.images import decoding
from pipelines.images.sealed import SealedImage
from pipelines.inference.backends import chat
from pipelines.inference.backends import client as http
from pipelines.inference.backends.client import Client, RequestError
from pipelines.records import Arm
from pipelines.records.endpoint import ENDPOINT_FILE, Endpoint, ServedModel
from pipelines.rehearsal import stub_endpoint


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(http, "_FIRST_PAUSE_S", 0.001)


def ask(base_url, **settings):
    async def once():
        async with Client(base_url, **({"concurrency": 2, "timeout_s": 5} | settings)) as client:
            return await client.post(lambda: {"model": "m"})

    return asyncio.run(once())


def test_a_busy_endpoint_is_asked_again():
    replies = itertools.chain([503, 429], itertools.repeat("B"))
    with stub_endpoint.endpoint(lambda _: next(replies)) as base_url:
        assert ask(base_url)["choices"][0]["message"]["content"] == "B"


def test_a_refused_request_is_not_repeated():
    seen = []
    with (
        stub_endpoint.endpoint(lambda body: seen.append(body) or 400) as base_url,
        pytest.raises(RequestError, match="400"),
    ):
        ask(base_url)
    assert len(seen) == 1


def test_a_pause_that_would_outlast_the_request_is_not_begun_and_the_endpoint_s_own_reason_is_told():
    busy = stub_endpoint.Refused(status=429, headers={"Retry-After": "30"})
    with stub_endpoint.endpoint(lambda _: busy) as base_url, pytest.raises(RequestError, match="status_429"):
        ask(base_url, patience_s=1)


@pytest.mark.parametrize("answer", [b"<html>", b'{"choices":', b"[" * 100_000])
def test_an_answer_that_is_no_json_is_called_that(answer):
    with stub_endpoint.endpoint(lambda _: answer) as base_url, pytest.raises(RequestError, match="answer_is_no_json"):
        ask(base_url)


def test_an_endpoint_that_is_not_there_fails_the_request_with_a_reason():
    with stub_endpoint.endpoint(lambda _: "B") as base_url:
        pass
    with pytest.raises(RequestError, match="not_reachable"):
        ask(base_url)


def test_an_endpoint_s_description_is_written_and_read(tmp_path):
    made = Endpoint(base_url="http://127.0.0.1:1/v1", models=(ServedModel(name="m", arm=Arm.TEACHER, digest="d"),))
    made.write(tmp_path)
    assert Endpoint.read(tmp_path) == made


@pytest.mark.parametrize("content", [None, "", "[]", '{"base_url": "x"}', '{"base_url": "x", "models": [{"name": 1}]}'])
def test_a_missing_or_damaged_description_says_to_deploy(tmp_path, content):
    if content is not None:
        (tmp_path / ENDPOINT_FILE).write_text(content)
    with pytest.raises(ArtifactError, match=r"serve\.app"):
        Endpoint.read(tmp_path)


def models(base_url, **settings):
    async def once():
        async with Client(base_url, concurrency=1, timeout_s=5, **settings) as client:
            return await client.models()

    return asyncio.run(once())


def test_an_endpoint_s_models_are_those_that_it_lists():
    with stub_endpoint.endpoint(lambda _: "B", models=["one", "two"], api_key="k") as base_url:
        assert models(base_url, api_key="k") == ["one", "two"]
        with pytest.raises(RequestError, match="status_401"):
            models(base_url)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_no_redirect_is_followed(status):
    seen = []
    with stub_endpoint.endpoint(lambda body: seen.append(body) or "B") as elsewhere:
        moved = stub_endpoint.Refused(status=status, headers={"Location": f"{elsewhere}/chat/completions"})
        with stub_endpoint.endpoint(lambda _: moved) as base_url, pytest.raises(RequestError, match=f"status_{status}"):
            ask(base_url)
    assert seen == []


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (400, {"error": {"message": "maximum context length", "code": None}}, "prompt_too_long"),
        (400, {"error": {"code": "context_length_exceeded"}}, "prompt_too_long"),
        (400, {"message": "prompt is too long: 9 tokens > 8 maximum"}, "prompt_too_long"),
        (400, {"error": "maximum context length"}, "prompt_too_long"),
        (500, {"error": {"message": "maximum context length"}}, "status_500"),
        (400, {"error": {"message": ["maximum context length"]}}, "status_400"),
        (400, [], "status_400"),
        (413, None, "status_413"),
    ],
)
def test_a_refusal_is_told_in_words_of_ours(status, body, reason):
    assert http.refusal(status, body) == reason


@pytest.mark.parametrize(("kind", "sent"), [("PNG", "png"), ("JPEG", "jpeg"), ("WEBP", None), ("GIF", None)])
def test_a_sealed_image_is_sent_in_its_own_bytes_where_everybody_reads_their_format_and_else_as_png(
    tmp_path, kind, sent
):
    picture = Image.linear_gradient("L").convert("RGB").resize((20, 10))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    data = buffer.getvalue()
    shard = tmp_path / "0.zip"
    with zipfile.ZipFile(shard, "w") as opened:
        opened.writestr("a.any", data)
    head, _, payload = chat.image_url(SealedImage(shard / "a.any", digest_bytes(data))).partition(",")
    assert head == f"data:image/{sent or 'png'};base64"
    carried = base64.b64decode(payload)
    assert carried == data if sent else Image.open(io.BytesIO(carried)).format == "PNG"
    assert decoding.decode(carried).tobytes() == decoding.decode(data).tobytes()


def test_a_request_is_made_in_another_thread_than_the_event_loop_s_and_sent_whole(monkeypatch):
    seen, threads, to_json = [], set(), http.to_json
    image = os.urandom(3 << 20)

    def body():
        threads.add(threading.get_ident())
        return {"image": chat.data_url(image), "text": "Wie groß?"}

    def encoded(body):
        threads.add(threading.get_ident())
        return to_json(body)

    async def once(base_url):
        async with Client(base_url, concurrency=1, timeout_s=60) as client:
            await client.post(body)

    monkeypatch.setattr(http, "to_json", encoded)
    with stub_endpoint.endpoint(lambda body: seen.append(body) or "B") as base_url:
        asyncio.run(once(base_url))
    assert seen == [{"image": chat.data_url(image), "text": "Wie groß?"}]
    assert threads and threading.get_ident() not in threads


def test_what_goes_wrong_while_a_request_is_made_is_raised_and_nothing_is_sent():
    seen = []

    async def once(base_url):
        async with Client(base_url, concurrency=1, timeout_s=5) as client:
            await client.post(lambda: {}["no image"])

    with (
        stub_endpoint.endpoint(lambda body: seen.append(body) or "B") as base_url,
        pytest.raises(KeyError, match="no image"),
    ):
        asyncio.run(once(base_url))
    assert seen == []
