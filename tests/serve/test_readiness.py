"""Readiness, asked of a small HTTP server that stands for the endpoint."""

import dataclasses
import json
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from infra.errors import ClusterError
from pipelines.records import TAUGHT, Arm
from pipelines.records.endpoint import Endpoint, ServedModel
from serve import readiness

NEVER = object()


@pytest.fixture
def serving():
    """Starts a server that gives each model's answer this log-probability, or answers with this status, or NEVER."""
    servers, ended = [], threading.Event()

    def start(answers, key=None):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                answer = answers[json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]]
                if answer is NEVER:
                    ended.wait()
                    return
                allowed = key is None or self.headers["Authorization"] == f"Bearer {key}"
                status = answer if isinstance(answer, HTTPStatus) else HTTPStatus.OK
                self.send_response(status if allowed else HTTPStatus.UNAUTHORIZED)
                self.end_headers()
                tokens = {"content": [{"token": "a", "logprob": answer}]} if isinstance(answer, float) else None
                self.wfile.write(json.dumps({"choices": [{"logprobs": tokens}]}).encode())

            def log_message(self, *arguments):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        arms = {"base": Arm.ZERO_SHOT, "adapter": Arm.ANSWER_ONLY, "teacher": Arm.TEACHER}
        models = tuple(ServedModel(name=name, arm=arms[name], digest="d") for name in answers)
        return Endpoint(base_url=f"http://127.0.0.1:{server.server_port}/v1", models=models)

    yield start
    ended.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def test_models_that_answer_each_in_its_own_way_are_ready(serving):
    readiness.check(serving({"base": -1.0, "adapter": -1.5, "teacher": -1.0}), None, timeout_s=5)


def test_adapter_that_answers_as_its_base_is_found_out(serving):
    with pytest.raises(ClusterError, match="adapter answers exactly as its base"):
        readiness.check(serving({"base": -1.0, "adapter": -1.0, "teacher": -2.0}), None, timeout_s=5)


@pytest.mark.parametrize("arm", TAUGHT)
def test_no_arm_s_adapter_may_answer_as_its_base(serving, arm):
    endpoint = serving({"base": -1.0, "adapter": -1.0})
    models = (endpoint.models[0], dataclasses.replace(endpoint.models[1], arm=arm))
    with pytest.raises(ClusterError, match="adapter answers exactly as its base"):
        readiness.check(dataclasses.replace(endpoint, models=models), None, timeout_s=5)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (HTTPStatus.BAD_REQUEST, "status_400"),
        (HTTPStatus.SERVICE_UNAVAILABLE, "status_503"),
        (None, "no log-probabilities"),
    ],
)
def test_model_that_does_not_answer_is_named_with_the_reason(serving, answer, reason):
    with pytest.raises(ClusterError, match=rf"teacher does not answer at http://127.*/v1: {reason}.*logs/serve"):
        readiness.check(serving({"base": -1.0, "adapter": -1.5, "teacher": answer}), None, timeout_s=20)


def test_model_that_never_answers_is_waited_for_once(serving):
    started = time.monotonic()
    with pytest.raises(ClusterError, match=r"teacher does not answer at .*: no answer within 0\.5 s"):
        readiness.check(serving({"teacher": NEVER}), None, timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_the_key_goes_with_every_question(serving):
    endpoint = serving({"base": -1.0, "adapter": -1.5}, key="secret")
    readiness.check(endpoint, "secret", timeout_s=5)
    with pytest.raises(ClusterError, match="status_401"):
        readiness.check(endpoint, None, timeout_s=5)


def test_endpoint_that_is_not_there_is_an_error():
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", models=(ServedModel(name="m", arm=Arm.TEACHER, digest="d"),))
    with pytest.raises(ClusterError, match=r"m does not answer at .*not_reachable"):
        readiness.check(endpoint, None, timeout_s=20)
