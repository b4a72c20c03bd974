"""A cluster of the user's that is not there, or does not take us: one line within seconds, with what to type."""

import http.server
import re
import socket
import threading
import time
from contextlib import contextmanager

import pytest

from infra import cluster, cluster_address, jobs, process_environment
from infra.errors import ClusterError
from tests import listening

VARIABLES = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_MODE", "HTTP_PROXY", "http_proxy", "ALL_PROXY")


@pytest.fixture(autouse=True)
def _nothing_of_the_user(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@contextmanager
def answering(status: int, text: str = "{}", version: str = '{"ray_version": "2.60.0", "version": "4"}'):
    """A server that answers each request alike, but for its version: its address, and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            is_version = self.path.endswith("/api/version")
            self.send_response(200 if is_version else status)
            self.end_headers()
            self.wfile.write((version if is_version else text).encode())

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()


def why(connect) -> str:
    """What is said of a cluster that cannot be used."""
    started = time.monotonic()
    with pytest.raises(ClusterError) as refusal:
        connect()
    assert time.monotonic() - started < 10
    said = str(refusal.value)
    assert "\n" not in said
    return said


@pytest.mark.parametrize("form", ["http://127.0.0.1:{}", "127.0.0.1:{}", "ray://127.0.0.1:{}", "http://127.0.0.1:{}/"])
def test_a_cluster_that_is_not_there_is_said_within_seconds(monkeypatch, form):
    address = form.format(listening.free_port())
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = why(lambda: jobs.connect(None))
    assert said.startswith(f"No cluster answers at RAY_ADDRESS={address} (")
    assert said.endswith("Start it, mend the address, or unset RAY_ADDRESS to use this machine.")


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_a_stage_by_itself_says_it_within_seconds_too(monkeypatch, form):
    monkeypatch.setenv("RAY_ADDRESS", form.format(listening.free_port()))
    assert "No cluster answers at RAY_ADDRESS=" in why(cluster.connect)


def test_a_stage_by_itself_is_no_job_and_is_told_where_it_can_run(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://head.example:8265")
    said = why(cluster.connect)
    assert "a stage by itself is none. Run the whole flow" in said
    assert "RAY_ADDRESS=auto" in said


@pytest.mark.parametrize("address", ["head", "head:", ":6379", "head:port", "ray://head", "head:99999"])
def test_what_is_no_address_is_named(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    for connect in (lambda: jobs.connect(None), cluster.connect):
        assert f"RAY_ADDRESS={address}" in why(connect)


def test_a_server_that_accepts_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(jobs, "_ANSWER_TIMEOUT_S", (1.0, 1.0))
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert "No cluster answers" in why(lambda: jobs.connect(None))


@pytest.mark.parametrize("text", ["<html>Sign in</html>", "[]", '{"ray_version": 3}'])
def test_a_server_that_is_no_ray_is_said_to_be_none(monkeypatch, text):
    with answering(200, version=text) as (address, _):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert "No cluster answers" in why(lambda: jobs.connect(None))


@pytest.mark.parametrize(
    ("mode", "status", "text", "message"),
    [
        ("disabled", 401, "Unauthorized: Missing authentication token", "wants a token"),
        ("token", 403, "Forbidden: Invalid authentication token", "does not take our token"),
    ],
)
def test_a_cluster_that_wants_a_token_says_what_to_type(monkeypatch, mode, status, text, message):
    monkeypatch.setenv("RAY_AUTH_MODE", mode)  # read by Ray when it is imported: none is sent
    with answering(status, text) as (address, _):
        monkeypatch.setenv("RAY_ADDRESS", address)
        said = why(lambda: jobs.connect(None))
    assert said.startswith(f"The cluster at {address} {message}: export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=FILE")


def test_token_authentication_without_any_token_says_what_to_type(monkeypatch, tmp_path):
    from ray._private.authentication import authentication_token_setup

    loader = authentication_token_setup.AuthenticationTokenLoader.instance()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    authentication_token_setup.Config.initialize("")
    loader.reset_cache()
    try:
        assert "wants a token: export RAY_AUTH_MODE=token" in why(lambda: jobs.connect(None))
    finally:
        monkeypatch.delenv("RAY_AUTH_MODE")
        authentication_token_setup.Config.initialize("")
        loader.reset_cache()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_a_proxy_that_does_not_reach_the_cluster_is_named_with_the_way_round_it(monkeypatch, variable):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, f"http://me:hunter2@127.0.0.1:{listening.free_port()}")
    monkeypatch.setenv("RAY_ADDRESS", "http://head.example:8265")
    said = why(lambda: jobs.connect(None))
    assert re.search(
        r"through the proxy http://\S*127\.0\.0\.1:\d+; to ask it directly: export no_proxy=head\.exam", said
    )
    assert "hunter2" not in said


@pytest.mark.parametrize("form", ["127.0.0.1", "localhost"])
def test_a_cluster_on_loopback_is_never_asked_through_a_proxy(monkeypatch, form):
    """As at the end of an SSH tunnel."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{listening.free_port()}")
    for name, value in process_environment.no_proxy_variables().items():
        monkeypatch.setenv(name, value)
    with answering(200, "[]") as (address, asked):
        monkeypatch.setenv("RAY_ADDRESS", address.replace("127.0.0.1", form))
        jobs.connect(None)
    assert "/api/jobs/" in asked


def test_ray_s_own_word_for_a_local_ray_names_none(monkeypatch):
    for address in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        assert cluster_address.named_by_user() is None
