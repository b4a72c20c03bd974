"""The endpoint of a finished run, as `make up` starts it, before hostile clients."""

import asyncio
import json
import subprocess
import sys

import pytest

from pipelines.inference.backends.chat import data_url
from tests import listening
from tests.benchmarks import fuzz_endpoint
from tests.benchmarks.hostile_requests import CANARY, Hostile
from tests.benchmarks.served import serving
from tests.flow.conftest import PROJECT
from tests.serve.api.fakes import chat, picture, post

NUM_REQUESTS = 300


@pytest.fixture(scope="module")
def served(small_run, tmp_path_factory):
    log = tmp_path_factory.mktemp("endpoint") / "log"
    with listening.watched() as listeners, serving(small_run.folder, log=log) as made:
        made.listeners = listeners
        yield made


@pytest.fixture(scope="module")
def hostile(served):
    made = Hostile(1, served.port, fuzz_endpoint.Trap().address, [])
    made.models = asyncio.run(fuzz_endpoint.models_of(made, served.port))
    return made


def ask(served, model, **fields):
    return post(served.port, chat(image=data_url(picture(96, 96)), model=model, max_tokens=4) | fields, timeout_s=60)


def test_nothing_is_fetched_for_a_request_whatever_keys_it_has(served, hostile):
    trap = fuzz_endpoint.Trap()
    shown = {"type": "image_url", "image_url": {"url": data_url(picture(96, 96))}}
    text = {"type": "text", "text": "x"}
    for part in (
        text | {"uuid": "a", "image_pil": trap.address},
        text | {"image_url": trap.address},
        shown | {"uuid": "a"},
        {"type": "image_pil", "image_pil": trap.address},
        {"type": "image_url", "image_url": {"url": trap.address}},
        {"type": "image_url", "image_url": trap.address},
        {"image_url": trap.address},
    ):
        status, _, body = ask(served, hostile.models[0], messages=[{"role": "user", "content": [part]}])
        assert (status, "error" in json.loads(body)) == (400, True)
    assert trap.caught == 0


def test_half_a_character_in_a_request_is_a_400_and_every_model_answers_after_it(served, hostile):
    for field in ("top_logprobs", "stop", "model", "user"):
        body = json.dumps(chat(model=hostile.models[0]) | {field: "\ud800"}).encode()
        assert post(served.port, body)[0] == 400
    assert [ask(served, model)[0] for model in hostile.models] == [200] * 4


def test_an_image_that_was_in_a_refused_request_is_answered_in_the_next_one(served, hostile):
    model = hostile.models[0]
    for number in range(5):
        image = data_url(picture(90 + number, 96))
        assert post(served.port, chat(image=image, model=model, n=4, max_tokens=4, temperature=0.0))[0] == 400
        assert post(served.port, chat(image=image, model=model, max_tokens=4, temperature=0.0), timeout_s=60)[0] == 200


def test_a_request_that_says_no_length_gets_no_more_than_the_endpoint_allows(served, hostile):
    body = chat(model=hostile.models[0], ignore_eos=True)
    status, _, answer = post(served.port, body, timeout_s=60)
    assert status == 200
    assert json.loads(answer)["usage"]["completion_tokens"] <= 4096


def test_hostile_requests_are_each_answered_and_change_nothing(served, hostile):
    findings, models = fuzz_endpoint.Findings(), hostile.models
    before = asyncio.run(fuzz_endpoint.greedy_answers(hostile, served.port, models))
    processes = served.models_processes()
    asyncio.run(fuzz_endpoint.attack(hostile, served.port, NUM_REQUESTS, findings))
    assert findings.faults == []
    assert sum(sum(counts.values()) for counts in findings.statuses.values()) == NUM_REQUESTS
    assert served.models_processes() == processes
    assert len(processes) >= 5  # endpoint, two replicas, two engines
    assert asyncio.run(fuzz_endpoint.greedy_answers(hostile, served.port, models)) == before
    assert fuzz_endpoint.leaks(served) == []


def test_the_search_for_prompts_in_logs_finds_one_that_is_there(served):
    folder = {file for process in served.processes() for file in (open_file.path for open_file in process.open_files())}
    logs = [path for path in folder if "/logs/" in path]
    assert logs
    with open(logs[0], "a") as log:  # noqa: PTH123
        log.write(CANARY)
    assert fuzz_endpoint.leaks(served) == [logs[0]]


def test_the_openai_client_of_the_readme_is_answered_by_every_model(served, small_run):
    blocks = (PROJECT / "README.md").read_text().split("```")[1::2]
    (snippet,) = [block.partition("\n")[2] for block in blocks if "import OpenAI" in block]
    code = snippet.replace("127.0.0.1:8000", f"127.0.0.1:{served.port}").replace("runs/pocket", str(small_run.folder))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)

    assert done.returncode == 0, done.stderr
    answers = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert len(answers) == 4
    assert all(json.loads(answer) for answer in answers.values())


def test_make_up_listens_on_loopback_alone_until_ctrl_c(served):
    """The last one here, since it ends the endpoint that the others ask."""
    assert served.stop() == 0
    assert ("127.0.0.1", served.port) in {(listener.address, listener.port) for listener in served.listeners}
    assert [listener for listener in served.listeners if not listener.is_loopback] == []
