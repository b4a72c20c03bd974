"""Requests: which reach an engine, and why the others do not."""

import json

import pytest

from serve.admission import admit
from serve.refusals import Refused


def asking(url: object) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is shown?"}]
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()


@pytest.mark.parametrize("url", ["data:image/png;base64,AAAA", "DATA:image/png;base64,AAAA"])
def test_image_that_comes_with_the_request_is_admitted(url):
    assert admit(asking(url), ())["model"] == "m"


def test_plain_text_is_admitted():
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4, "temperature": 0}
    assert admit(json.dumps(body).encode(), ()) == body


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.png",
        "https://example.org/a.png",
        "file:///etc/passwd",
        "ftp://example.org/a.png",
        "//example.org/a.png",
        "http://[broken",
        "",
        None,
        7,
    ],
)
def test_image_from_elsewhere_is_refused(url):
    with pytest.raises(Refused, match=r"data: URLs|cannot be read"):
        admit(asking(url), ())


def test_only_listed_hosts_are_fetched_from():
    listed = ("images.example.org",)
    assert admit(asking("https://images.example.org/a.png"), listed)
    for url in (
        "https://example.org/a.png",
        "https://images.example.org@evil.org/a.png",
        "file://images.example.org/a",
    ):
        with pytest.raises(Refused, match=r"or from images\.example\.org"):
            admit(asking(url), listed)


@pytest.mark.parametrize("body", [b"", b"{", b"[1, 2]", b"3", b"\xff\xfe", b"[" * 200_000])
def test_body_that_is_no_object_is_refused(body):
    with pytest.raises(Refused, match="no JSON object"):
        admit(body, ())


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("chat_template", "{{ x }}", "chat_template"),
        ("mm_processor_kwargs", {}, "mm_processor_kwargs"),
        ("temprature", 0, "Did you mean 'temperature'"),
        ("n", 100_000, "from 1 to 16"),
        ("n", "2", "from 1 to 16"),
    ],
)
def test_field_that_is_not_taken_is_refused(field, value, word):
    with pytest.raises(Refused, match=word):
        admit(json.dumps({"model": "m", field: value}).encode(), ())


def test_video_and_sound_are_refused():
    body = {"model": "m", "messages": [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]}]}
    with pytest.raises(Refused, match="video_url"):
        admit(json.dumps(body).encode(), ())


@pytest.mark.parametrize("messages", [None, 3, "text", [3], [{"role": "user"}], [{"content": [3]}]])
def test_misshapen_messages_are_left_to_the_engine_to_refuse(messages):
    assert admit(json.dumps({"model": "m", "messages": messages}).encode(), ())["messages"] == messages
