"""Who may ask: keys, and what browsers say of themselves."""

import pytest
from starlette.datastructures import Headers

from serve.api.access_control import AccessControl, digest_key, is_loopback
from serve.api.errors import Refused
from tests.serve.api.fakes import chat, ingress, post, serving

LOCAL = AccessControl(None)
KEYED = AccessControl(digest_key("secret"))


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost", "LOCALHOST:8000", "[::1]:8000", "127.8.9.1"])
def test_this_machine_s_names_are_taken_on_loopback(host):
    LOCAL.check(Headers({"host": host}))


@pytest.mark.parametrize(
    "host", ["evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "[broken", "127.0.0.1.nip.io"]
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(host):
    with pytest.raises(Refused) as refused:
        LOCAL.check(Headers({"host": host}))
    assert refused.value.status == 421


@pytest.mark.parametrize(
    "host", ["evil@localhost", "localhost#evil", "127.0.0.1/evil", "localhost?x", "x\\\\@localhost"]
)
def test_a_host_that_is_more_than_a_name_and_a_port_is_refused(host):
    with pytest.raises(Refused) as refused:
        LOCAL.check(Headers({"host": host}))
    assert refused.value.status == 421


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"])
def test_what_a_proxy_passes_on_needs_a_key(name):
    with pytest.raises(Refused, match="PRECEPTOR_API_KEY") as refused:
        LOCAL.check(Headers({"host": "127.0.0.1:8000", name: "10.0.0.7"}))
    assert refused.value.status == 403
    KEYED.check(Headers({"host": "x", name: "10.0.0.7", "authorization": "Bearer secret"}))


@pytest.mark.parametrize("guard", [LOCAL, KEYED])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:3000", "http://[", ""])
def test_pages_of_other_sites_may_not_ask(guard, origin):
    with pytest.raises(Refused) as refused:
        guard.check(Headers({"host": "localhost:8000", "origin": origin, "authorization": "Bearer secret"}))
    assert refused.value.status == 403


def test_a_page_of_the_endpoint_s_own_may_ask():
    LOCAL.check(Headers({"host": "localhost:8000", "origin": "http://localhost:8000"}))


@pytest.mark.parametrize("given", ["Bearer secret", "bearer secret", "BEARER  secret "])
def test_the_key_is_taken_whatever_the_case_of_bearer_and_under_any_name_of_the_host(given):
    KEYED.check(Headers({"host": "models.hospital.example", "authorization": given}))


@pytest.mark.parametrize("given", ["secret", "Basic secret", "Bearer", "Bearer ", "Bearer wrong", "Bearersecret", ""])
def test_anything_but_a_bearer_s_key_is_refused(given):
    with pytest.raises(Refused) as refused:
        KEYED.check(Headers({"host": "localhost", "authorization": given}))
    assert refused.value.status == 401


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/openapi.json", "/nothing"])
def test_without_the_key_there_is_no_answer_but_the_refusal_and_no_body_is_read(path):
    made = ingress(key="secret")
    with serving(made) as port:
        status, _, body = post(port, b"{", path=path, Content_Length=1 << 24, timeout_s=1)  # most of it never comes
    assert status == 401
    assert b"Authorization: Bearer KEY" in body
    assert made.handle.asked == []


def test_with_the_key_all_is_as_without():
    with serving(ingress(key="secret")) as port:
        assert post(port, chat(), Authorization="Bearer secret")[0] == 200


@pytest.mark.parametrize(
    ("host", "own"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("::", False), ("0.0.0.0", False), ("x", False)],
)
def test_loopback_is_known_from_addresses_that_others_reach(host, own):
    assert is_loopback(host) is own
