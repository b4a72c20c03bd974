import asyncio
import base64
import dataclasses
import itertools
import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ClusterError
from infra.progress import Progress
from infra.stage import Task
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import SealedImage
from pipelines.inference import worker
from pipelines.inference.backends import chat, client, endpoint
from pipelines.inference.backends.backend import Before, Completion, Example, RowError
from pipelines.inference.backends.chat import completion
from pipelines.inference.backends.endpoint import EndpointBackend
from pipelines.rehearsal import stub_endpoint
from pipelines.rehearsal.stub_endpoint import Refused, Said
from pipelines.teaching.requests import inference
from serve.api import validation
from tests.pipelines.fixtures import sealed
from tests.pipelines.teaching.fixtures import config, lines, many, prepare, put_many

TEXT = "It is round, and bright at its border.\nAnswer: cast (B)"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.001)


def at(base_url, teacher="m", **changes):
    """How a model is asked at an endpoint."""
    return inference(config(endpoint=base_url, teacher=teacher, **changes))


def ask(base_url, prompt="Which process route?", shown=(), **changes):
    """What the endpoint's engine makes of one request."""

    async def once():
        engine = EndpointBackend(at(base_url, **changes))
        try:
            return await engine.generate(prompt, shown, seed=7)
        finally:
            await engine.close()

    return asyncio.run(once())


def test_all_that_an_endpoint_tells_is_what_our_own_engine_tells():
    said = Said(text=TEXT, thoughts="Hm.", logprobs=(-0.5, -0.25), num_prompt_tokens=52)
    with stub_endpoint.endpoint(lambda _: said) as base_url:
        assert ask(base_url) == Completion(
            text=TEXT,
            finish_reason="stop",
            num_prompt_tokens=52,
            num_output_tokens=11,
            logprobs=[-0.5, -0.25],
            thoughts="Hm.",
        )


def test_the_recipe_s_settings_and_the_request_s_seed_are_sent():
    seen = []
    with stub_endpoint.endpoint(lambda body: seen.append(body) or TEXT) as base_url:
        ask(base_url, temperature=0.5, top_p=0.9, max_tokens=77)
        ask(base_url, top_k=5)
    sent = {name: value for name, value in seen[0].items() if name != "messages"}
    assert sent == {
        "model": "m",
        "max_tokens": 77,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "logprobs": True,
    }
    assert seen[1]["top_k"] == 5


def test_images_are_sent_in_order_before_the_prompt_in_the_bytes_in_which_they_were_sealed(tmp_path):
    folder = put_many(tmp_path, many(3)).path
    asked = sealed(folder, *(f"images/0.zip/{number}.png" for number in (2, 0)))
    seen = []
    with stub_endpoint.endpoint(lambda body: seen.append(body) or TEXT) as base_url:
        ask(base_url, "What?", asked)
    *shown, text = seen[0]["messages"][0]["content"]
    heads, _, data = zip(*(part["image_url"]["url"].partition(",") for part in shown), strict=True)
    assert set(heads) == {"data:image/png;base64"}
    assert [base64.b64decode(each) for each in data] == [image.read() for image in asked]
    assert text == {"type": "text", "text": "What?"}


def test_an_image_that_is_not_there_is_the_image_s_trouble_and_nothing_is_sent(tmp_path):
    seen = []
    with (
        stub_endpoint.endpoint(lambda body: seen.append(body) or TEXT) as base_url,
        pytest.raises(UnreadableImageError),
    ):
        ask(base_url, shown=[SealedImage(tmp_path / "0.zip/none.png", "d" * 64)])
    assert seen == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refused_request_fails_its_row_at_once(status):
    seen = []
    with (
        stub_endpoint.endpoint(lambda body: seen.append(body) or status) as base_url,
        pytest.raises(RowError) as failed,
    ):
        ask(base_url)
    assert (str(failed.value), len(seen)) == (f"status_{status}", 1)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_busy_endpoint_is_asked_again_and_at_last_fails_the_row(status):
    replies = itertools.chain([status] * 2, itertools.repeat(TEXT))
    with stub_endpoint.endpoint(lambda _: next(replies)) as base_url:
        assert ask(base_url).text == TEXT
    with stub_endpoint.endpoint(lambda _: status) as base_url, pytest.raises(RowError, match=f"status_{status}"):
        ask(base_url)


@pytest.mark.parametrize(
    ("said", "pause_s"), [("3", 3.0), ("0.5", 0.5), ("9999999", 30.0), ("soon", 0.001), ("-1", 0.001)]
)
def test_a_busy_endpoint_is_asked_again_when_it_says(monkeypatch, said, pause_s):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    replies = iter([Refused(status=429, headers={"Retry-After": said}), TEXT])
    with stub_endpoint.endpoint(lambda _: next(replies)) as base_url:
        monkeypatch.setattr(client.asyncio, "sleep", sleep)
        ask(base_url)
        monkeypatch.undo()
    assert pause_s in pauses


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 512 tokens. However, you requested 900 tokens.",
        "The decoder prompt (length 900) is longer than the maximum model length of 512.",
        "the request exceeds the available context size",
        "prompt is too long: 900 tokens > 512 maximum",
        "The input (900 tokens) is longer than the model's context length (512 tokens).",
    ],
)
def test_a_prompt_that_does_not_fit_is_told_apart_without_repeating_what_was_said(said):
    refused = Refused(status=400, message=f"{said} Which process route made this secret sample?")
    with stub_endpoint.endpoint(lambda _: refused) as base_url, pytest.raises(RowError) as failed:
        ask(base_url)
    assert str(failed.value) == "prompt_too_long"
    assert failed.value.__cause__ is None


def test_an_answer_that_never_ends_is_not_held(monkeypatch):
    monkeypatch.setattr(client, "_MOST_ANSWER_BYTES", 1000)
    said = json.dumps(Said(text=TEXT * 1000).as_json()).encode()
    with stub_endpoint.endpoint(lambda _: said) as base_url, pytest.raises(RowError, match="answer_too_large"):
        ask(base_url)


@pytest.mark.parametrize("said", [b"", b"<html>", b"\xff", b"[" * 100_000, b"{}", b"[]", b"null", b'{"choices": [{}]}'])
def test_what_is_no_chat_completion_fails_the_row(said):
    with stub_endpoint.endpoint(lambda _: said) as base_url, pytest.raises(RowError, match=r"^[A-Za-z_]+$"):
        ask(base_url)


def test_no_redirect_is_followed_and_no_proxy_of_the_environment_is_used(monkeypatch):
    seen = []
    with stub_endpoint.endpoint(lambda body: seen.append(body) or TEXT) as elsewhere:
        redirect = Refused(status=307, headers={"Location": f"{elsewhere}/chat/completions"})
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, elsewhere)
        with stub_endpoint.endpoint(lambda _: redirect) as base_url, pytest.raises(RowError, match="status_307"):
            ask(base_url)
    assert seen == []


def test_the_key_goes_to_the_endpoint_and_nowhere_else(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(client.API_KEY_VARIABLE, "s3cret")
    with stub_endpoint.endpoint(lambda _: TEXT, models=["m"], api_key="s3cret") as base_url:
        assert ask(base_url, "a private prompt").text == TEXT
        endpoint.check(at(base_url))
    told = "".join(record.getMessage() for record in caplog.records)
    assert not any(secret in told for secret in ("s3cret", "a private prompt", "round"))


def test_a_key_that_was_read_from_a_file_works_with_the_line_s_end_that_it_brings(monkeypatch):
    monkeypatch.setenv(client.API_KEY_VARIABLE, "s3cret\n")
    with stub_endpoint.endpoint(lambda _: TEXT, models=["m"], api_key="s3cret") as base_url:
        assert ask(base_url).text == TEXT


@pytest.mark.parametrize(
    ("key", "told"), [(None, "wants a key, and there is none in"), ("wrong", "refuses the key in")]
)
def test_a_wrong_or_absent_key_is_told_before_a_row_is_asked(monkeypatch, key, told):
    if key:
        monkeypatch.setenv(client.API_KEY_VARIABLE, key)
    with stub_endpoint.endpoint(lambda _: TEXT, models=["m"], api_key="right") as base_url:
        with pytest.raises(ClusterError, match=rf"{told} {client.API_KEY_VARIABLE} \(status_401\)") as failed:
            endpoint.check(at(base_url))
        with pytest.raises(RowError, match="status_401"):
            ask(base_url)
    assert "right" not in str(failed.value).replace("wrong", "")


def test_an_endpoint_that_does_not_answer_or_serves_no_such_model_is_told_before_a_row_is_asked():
    endpoint.check(inference(config()))  # engines of our own
    with stub_endpoint.endpoint(lambda _: TEXT, models=[f"model-{number}" for number in range(9)]) as base_url:
        with pytest.raises(ClusterError, match=r"serves 'model-0', .*'model-4' and 4 more, and no 'm'.*teach\.teacher"):
            endpoint.check(at(base_url))
        with pytest.raises(ClusterError, match=r"lists no models \(status_404\).*/v1\..*--set teach\.endpoint=URL"):
            endpoint.check(at(base_url.removesuffix("/v1")))
        endpoint.check(at(f"{base_url}/", "model-8"))
    for nowhere in (base_url, "http://", "https://127.0.0.1:1/v1"):
        with pytest.raises(ClusterError, match=r"Nothing answers at .*--set teach\.endpoint=URL"):
            endpoint.check(at(nowhere))


def test_the_stage_stops_before_a_cluster_is_started_when_its_endpoint_is_not_there(tmp_path, monkeypatch):
    from infra import cluster
    from pipelines.teaching import stage as teacher

    monkeypatch.setattr(cluster, "connect", lambda: pytest.fail("Ray was started"))
    with stub_endpoint.endpoint(lambda _: TEXT) as base_url:
        pass
    questions = put_many(tmp_path / "runs" / "r", many(2))
    (tmp_path / "draft").mkdir()
    task = Task(
        config=config(endpoint=base_url, teacher="m"),
        run_dir=tmp_path / "runs" / "r",
        inputs={"questions": questions},
        draft=tmp_path / "draft",
        progress=Progress("teach"),
        metric=None,
    )
    with pytest.raises(ClusterError, match="Nothing answers at"):
        teacher.run(task)


def test_a_dead_endpoint_fails_each_row_with_its_reason(tmp_path):
    with stub_endpoint.endpoint(lambda _: TEXT) as base_url:
        pass
    account, written = explained(tmp_path, base_url, attempts=1)
    assert account.settled == {"real/failed": 4}
    assert account.reasons == {"real/not_reachable": 4}
    assert {line["error"] for line in written} == {"not_reachable"}


def test_a_slow_answer_fails_its_row_when_its_time_is_over(tmp_path):
    slow, quick = Said(text=TEXT, after_s=5.0), Said(text=TEXT)
    replies = iter([slow])
    with stub_endpoint.endpoint(lambda _: next(replies, quick)) as base_url:
        account, _ = explained(tmp_path, base_url, attempts=1, timeout_s=1.0)
    assert account.settled == {"real/answered": 3, "real/failed": 1}
    assert set(account.reasons) <= {"real/timed_out", "real/timeout"}


def test_an_endpoint_s_answers_are_written_down_as_an_engine_s_own(tmp_path):
    said = Said(text=f"<think>\nHm.</think>{TEXT}", logprobs=(-0.5, -0.25), num_prompt_tokens=52)
    with stub_endpoint.endpoint(lambda _: said) as base_url:
        account, written = explained(tmp_path, base_url)
    assert (account.needed, account.right, account.prompt_tokens) == (4, 4, 4 * 52)
    for line in written:
        assert (line["thoughts"], line["text"], line["letter"], line["status"]) == ("Hm.", TEXT, "B", "answered")
        assert (line["mean_logprob"], line["min_logprob"]) == (-0.375, -0.5)


def explained(tmp_path, base_url, **changes):
    """What one engine makes of four questions: its account, and the ledger's lines."""
    job, plan, _ = prepare(tmp_path, many(4), config(batch_size=4))
    job = dataclasses.replace(job, config=at(base_url, batch_size=4, **changes))
    (account,) = worker.work_through(job, plan)
    return account, lines(job.ledger)


WHOLE = {
    "choices": [{"message": {"content": TEXT}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2},
}


def with_(path, value):
    spoiled = json.loads(json.dumps(WHOLE))
    *way, last = path
    inner = spoiled
    for name in way:
        inner = inner[name]
    inner[last] = value
    return spoiled


@pytest.mark.parametrize("value", [[], {}, 1, True, ["a"], {"a": 1}])
@pytest.mark.parametrize("name", ["content", "reasoning_content", "reasoning"])
def test_a_text_that_is_none_is_no_completion(name, value):
    answered = with_(("choices", 0, "message", name), value)
    with pytest.raises(RowError, match="answer_is_no_chat_completion"):
        completion(answered)


@pytest.mark.parametrize("value", [None, -1, 1.5, "2", True, 10**30, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_is_none_is_no_completion(name, value):
    with pytest.raises(RowError, match="answer_is_no_chat_completion"):
        completion(with_(("usage", name), value))


@pytest.mark.parametrize("value", [None, 1, "", "STOP\n", "the prompt was: secret", "x" * 99])
def test_a_reason_to_stop_that_is_none_is_no_completion(value):
    with pytest.raises(RowError, match="answer_is_no_chat_completion"):
        completion(with_(("choices", 0, "finish_reason"), value))


def test_an_engine_s_own_error_is_no_text():
    with pytest.raises(RowError, match="engine_error"):
        completion(with_(("choices", 0, "finish_reason"), "error"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None, "x", 10**400, True])
def test_a_logprob_that_is_no_number_is_no_completion(value):
    with pytest.raises(RowError, match="answer_is_no_chat_completion"):
        completion(with_(("choices", 0, "logprobs"), {"content": [{"logprob": value}]}))


@pytest.mark.parametrize("told", [None, {}, {"content": None}, {"content": []}, {"tokens": ["a"]}])
def test_logprobs_that_are_not_told_are_none(told):
    assert tuple(completion(with_(("choices", 0, "logprobs"), told)).logprobs) == ()


def test_half_a_character_is_replaced_wherever_it_is():
    answered = with_(("choices", 0, "message"), {"content": "a\ud800", "reasoning_content": "b\udfff"})
    assert (completion(answered).text, completion(answered).thoughts) == ("a?", "b?")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["choices", "usage", "message", "content", "logprobs"]), inner)
        ),
        max_leaves=20,
    )
)
def test_any_json_at_all_is_a_completion_or_no_completion(answered):
    try:
        assert isinstance(completion(answered).text, str)
    except RowError as error:
        assert str(error) == "answer_is_no_chat_completion"


def test_a_system_message_is_sent_where_there_is_one_and_no_message_more_where_there_is_none():
    seen = []
    with stub_endpoint.endpoint(lambda body: seen.append(body["messages"]) or TEXT) as base_url:

        async def both():
            engine = EndpointBackend(at(base_url))
            try:
                await engine.generate("Which?", (), 7)
                await engine.generate("Which?", (), 7, Before(system="Be brief."))
            finally:
                await engine.close()

        asyncio.run(both())
    asked = {"role": "user", "content": [{"type": "text", "text": "Which?"}]}
    assert seen == [[asked], [{"role": "system", "content": "Be brief."}, asked]]


def test_our_own_endpoint_admits_a_request_with_a_system_message_and_answered_examples():
    before = Before(system="Be brief.", examples=[Example(prompt="What?", images=(), answer="A")])
    body = json.dumps(chat.body("m", "Which?", (), at("http://h/v1").sampling, 7, before)).encode()
    limits = validation.Limits(max_answer_tokens=4096, max_images=2, max_image_pixels=100)
    assert len(validation.admit("chat", body, limits).body["messages"]) == 4
