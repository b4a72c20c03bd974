"""Readiness, asked of a small HTTP server that stands for the endpoint."""

import dataclasses
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from infra.errors import ClusterError
from pipelines.records import TAUGHT, Arm
from pipelines.records.endpoint import Endpoint, ServedModel
from serve import readiness


@pytest.fixture
def serving():
    """Starts a server that answers each model with these log-probabilities, None with an error."""
    servers = []

    def start(logprobs):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                logprob = logprobs[body["model"]]
                tokens = {"content": [{"token": "a", "logprob": logprob}]}
                self.send_response(200 if logprob is not None else 503)
                self.end_headers()
                self.wfile.write(json.dumps({"choices": [{"logprobs": tokens}]}).encode())

            def log_message(self, *arguments):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        arms = {"base": Arm.ZERO_SHOT, "adapter": Arm.ANSWER_ONLY, "teacher": Arm.TEACHER}
        models = tuple(ServedModel(name=name, arm=arms[name], digest="d") for name in logprobs)
        return Endpoint(base_url=f"http://127.0.0.1:{server.server_port}/v1", models=models)

    yield start
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


def test_model_that_does_not_answer_is_named(serving):
    with pytest.raises(ClusterError, match="teacher does not answer: status 503"):
        readiness.check(serving({"base": -1.0, "adapter": -1.5, "teacher": None}), None, timeout_s=5)


def test_endpoint_that_is_not_there_is_an_error():
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", models=(ServedModel(name="m", arm=Arm.TEACHER, digest="d"),))
    with pytest.raises(ClusterError, match="m does not answer at"):
        readiness.check(endpoint, None, timeout_s=5)
