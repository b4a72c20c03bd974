"""Requests: which reach an engine, and why the others do not."""

import dataclasses
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.backends.chat import data_url
from serve.api.errors import Refused
from serve.api.schema import MAX_BODY_BYTES, MAX_MESSAGES, MAX_PARTS
from serve.api.validation import admit
from tests.serve.api.fakes import LIMITS, chat, picture

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


def encoded(body):
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def refusal(body, kind="chat"):
    with pytest.raises(Refused) as refused:
        admit(kind, encoded(body), LIMITS)
    assert refused.value.status == 400
    assert len(refused.value.message) < 600
    return refused.value.message


def part(**fields):
    return {"model": "m", "messages": [{"role": "user", "content": [fields]}]}


def test_the_request_that_the_readme_shows_is_admitted():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    (shown,) = re.findall(r"^curl http\S+/v1/chat/completions .*?-d '(.*?)'$", readme, flags=re.MULTILINE | re.DOTALL)
    assert admit("chat", shown.encode(), LIMITS).model == "pocket-base"


def test_plain_text_is_admitted_as_it_is():
    body = PLAIN | {"max_tokens": 4, "temperature": 0.0, "stop": ["x"], "seed": 3}
    admitted = admit("chat", encoded(body), LIMITS)
    assert (admitted.body, admitted.num_answers, admitted.num_tokens, admitted.streams) == (body, 1, 4, False)


def test_image_that_comes_with_the_request_is_admitted():
    body = chat(image=data_url(picture())) | {"stream": True, "user": "u"}
    admitted = admit("chat", encoded(body), LIMITS)
    assert (admitted.body, admitted.streams, admitted.user) == (body, True, "u")


def test_a_request_has_no_more_images_than_an_engine_takes():
    def asked(num_images):
        parts = [{"type": "image_url", "image_url": {"url": data_url(picture())}}] * num_images
        half = num_images // 2
        return {"model": "m", "messages": [{"role": "user", "content": some} for some in (parts[:half], parts[half:])]}

    assert admit("chat", encoded(asked(LIMITS.max_images)), LIMITS).body == asked(LIMITS.max_images)
    assert "4 images; this one has 5" in refusal(asked(LIMITS.max_images + 1))


@pytest.mark.parametrize(
    "strange",
    [
        {"uuid": "a"},
        {"image_pil": "http://127.0.0.1:1/a.png"},
        {"image_embeds": "AAAA"},
        {"cache_control": {}},
        {"video_url": {"url": "x"}},
    ],
)
def test_a_key_that_a_part_does_not_have_is_refused_by_its_name(strange):
    (name,) = strange
    assert f"{name!r} is not taken in messages.0.content.0" in refusal(part(type="text", text="x", **strange))
    image = {"type": "image_url", "image_url": {"url": data_url(picture())}}
    assert f"{name!r} is not taken in messages.0.content.0" in refusal(part(**image, **strange))
    image["image_url"] |= strange
    assert f"{name!r} is not taken in messages.0.content.0.image_url" in refusal(part(**image))


@pytest.mark.parametrize(
    "kind", ["video_url", "input_audio", "image_pil", "image_embeds", "audio_url", "file", "refusal", "", None, 3]
)
def test_parts_of_other_types_are_refused(kind):
    assert "type" in refusal(part(type=kind, **{str(kind): {"url": "x"}}))


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("chat_template", "{{ x }}", "'chat_template' is not taken"),
        ("mm_processor_kwargs", {}, "mm_processor_kwargs"),
        ("media_io_kwargs", {}, "media_io_kwargs"),
        ("cache_salt", "x", "cache_salt"),
        ("logits_processors", [], "logits_processors"),
        ("vllm_xargs", {}, "vllm_xargs"),
        ("priority", 0, "priority"),
        ("temprature", 0, "Did you mean 'temperature'"),
        ("n", 100_000, "n: .*16"),
        ("n", "2", "n: .*integer"),
        ("n", 2, "set max_tokens too"),
        ("n", True, "n: .*integer"),
        ("temperature", "hot", "temperature"),
        ("temperature", -1, "temperature"),
        ("temperature", True, "temperature"),
        ("top_p", 0, "top_p"),
        ("top_logprobs", 3, "goes with logprobs"),
        ("top_logprobs", 21, "top_logprobs"),
        ("max_tokens", 0, "max_tokens"),
        ("max_tokens", 4097, "1 x 4097 = 4097; a request may ask for 4096"),
        ("max_completion_tokens", 5000, "may ask for 4096"),
        ("stop", [""], "stop"),
        ("stop", ["x"] * 17, "stop"),
        ("stop", "", "stop"),
        ("seed", 1 << 63, "seed"),
        ("stream_options", {"include_usage": True}, "goes with stream"),
        ("stream", "yes", "stream"),
        ("user", "u" * 257, "user"),
    ],
)
def test_setting_that_is_not_taken_is_refused_by_its_name(field, value, word):
    assert re.search(word, refusal(PLAIN | {field: value}))


@pytest.mark.parametrize(
    "messages",
    [None, 3, "text", [], [3], [None], [{"role": "user"}], [{"content": "x"}], [{"role": "tool", "content": "x"}],
     [{"role": "user", "content": []}], [{"role": "user", "content": None}], [{"role": "user", "content": [3]}],
     [{"role": "user", "content": "x", "tool_calls": []}], [{"role": "user", "content": "x", "name": "y"}]],
)  # fmt: skip
def test_misshapen_messages_are_refused_where_they_are_wrong(messages):
    assert "messages" in refusal({"model": "m", "messages": messages})


def test_a_request_without_messages_or_model_names_what_is_missing():
    assert refusal({"model": "m"}).startswith("messages: ")
    assert refusal({"messages": PLAIN["messages"]}).startswith("model: ")
    assert refusal({"model": "m"}, "completions").startswith("prompt: ")


@pytest.mark.parametrize("prompt", [["a"], [1, 2], [[1]], None, 3])
def test_a_prompt_is_a_text(prompt):
    assert refusal({"model": "m", "prompt": prompt}, "completions").startswith("prompt: ")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1, 2]", b"3", b"null", b"NaN", b"\xff\xfe", b"[" * 200_000, b'{"a":' * 200_000, b'"\\ud800"'],
)
def test_body_that_is_no_object_is_refused(body):
    refusal(body)


@pytest.mark.parametrize("where", ["model", "top_logprobs", "stop", "user", "content", "key"])
@pytest.mark.parametrize("text", [b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xed\xa0\x80"', b'"\xff"'])
def test_text_that_is_not_utf8_is_refused_wherever_it_stands(where, text):
    body = {
        "content": b'{"model": "m", "messages": [{"role": "user", "content": %s}]}' % text,
        "key": b'{"model": "m", %s: 1}' % text,
    }.get(where, json.dumps(PLAIN)[:-1].encode() + b', "%s": %s}' % (where.encode(), text))
    assert "no JSON" in refusal(body)


def large(**fields):
    return encoded(PLAIN | fields)


@pytest.mark.parametrize(
    "body",
    [
        large(model="m" * 30_000_000),
        large(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * 1_000_000}]),
        large(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_PARTS + 1)}]),
        large(messages=[{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)),
        large(stop=["x"] * 1_000_000),
        b"[" + b"1," * 15_000_000 + b"1]",
        large(messages=[{"role": "user", "content": "x" * 30_000_000}]),
        large(**{"k" * 30_000_000: 1}),
        large(**{f"k{number}": 1 for number in range(100_000)}),
        part(type="v" * 10_000_000),
    ],
    ids=range(10),
)
def test_what_is_too_much_costs_little_and_does_not_come_back(body):
    assert len(encoded(body)) <= MAX_BODY_BYTES + (4 << 20)
    started = time.process_time()
    assert len(refusal(body)) < 600
    assert time.process_time() - started < 5


def test_a_refusal_repeats_no_value_of_the_request():
    for field in ("temperature", "n", "stream", "stop", "seed", "messages", "max_tokens", "stream_options"):
        assert "PATIENT" not in refusal(PLAIN | {field: {"PATIENT": "PATIENT"}}).replace("Field 'PATIENT'", "")
        assert "PATIENT" not in refusal(PLAIN | {field: ["PATIENT 7" * 100]})
    assert "PATIENT" not in refusal(part(type="PATIENT"))
    assert "PATIENT" not in refusal(chat(image="http://evil/PATIENT"))


def test_a_request_that_says_no_length_is_counted_with_the_longest():
    assert admit("chat", encoded(PLAIN), LIMITS).num_tokens == LIMITS.max_answer_tokens
    assert admit("chat", encoded(PLAIN | {"n": 4, "max_tokens": 1024}), LIMITS).num_tokens == 4096


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = st.sampled_from(
    ["model", "messages", "n", "max_tokens", "stop", "stream", "logprobs", "top_p", "user", "seed"]
)


@given(st.dictionaries(FIELDS, json_values, max_size=5))
def test_any_json_is_admitted_or_refused(fields):
    body = json.dumps(PLAIN | fields).encode()
    try:
        assert set(admit("chat", body, LIMITS).body) <= set(PLAIN | fields)
    except Refused as refused:
        assert refused.status == 400


@given(st.binary(max_size=200))
def test_any_bytes_are_admitted_or_refused(body):
    with pytest.raises(Refused):
        admit("chat", body, LIMITS)


BEGUN = PLAIN | {
    "messages": [*PLAIN["messages"], {"role": "assistant", "content": "It is round.\nAnswer:"}],
    "continue_final_message": True,
    "add_generation_prompt": False,
}


def test_an_answer_that_the_request_begins_is_admitted_only_where_the_owner_allows_it():
    assert "'continue_final_message' is not taken here" in refusal(BEGUN)
    assert "--set deploy.prefill=true" in refusal(BEGUN)
    allowing = dataclasses.replace(LIMITS, prefill=True)
    assert admit("chat", encoded(BEGUN), allowing).body == BEGUN


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"add_generation_prompt": None}, "go together"),
        ({"continue_final_message": None}, "go together"),
        ({"messages": PLAIN["messages"]}, "a last message of the assistant"),
        ({"add_generation_prompt": True}, "add_generation_prompt"),
        ({"continue_final_message": False}, "continue_final_message"),
        ({"continue_final_message": "yes"}, "continue_final_message"),
    ],
)
def test_half_a_beginning_is_refused_even_where_beginnings_are_allowed(changed, why):
    with pytest.raises(Refused) as refused:
        admit("chat", encoded(BEGUN | changed), dataclasses.replace(LIMITS, prefill=True))
    assert why in refused.value.message


def test_a_text_completion_has_no_beginning():
    assert "'continue_final_message' is not taken" in refusal(
        {"model": "m", "prompt": "x", "continue_final_message": True}, "completions"
    )
