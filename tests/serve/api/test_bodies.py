"""The bodies of requests: what is held of them, and for how long."""

import asyncio
import tracemalloc

import pytest
from starlette.requests import ClientDisconnect, Request

from serve.api.bodies import BodyReader
from serve.api.errors import Refused

PART = 1 << 16


def request(num_parts, *, end=True):
    """A request whose body arrives in num_parts parts, and then ends or breaks off."""
    sent = iter(range(num_parts))

    async def receive():
        for number in sent:
            more = not end or number < num_parts - 1
            return {"type": "http.request", "body": bytes(PART), "more_body": more}
        return {"type": "http.disconnect"}

    return Request({"type": "http", "headers": []}, receive)


def test_a_body_that_was_read_is_counted_until_the_end_and_kept_by_its_reader_alone():
    async def play():
        bodies = BodyReader()
        tracemalloc.start()
        async with bodies.body(request(64)) as body:
            assert (len(body), bodies.held_bytes) == (64 * PART, 64 * PART)
            del body
            assert tracemalloc.get_traced_memory()[0] < PART
            assert bodies.held_bytes == 64 * PART
        tracemalloc.stop()
        assert bodies.held_bytes == 0

    asyncio.run(play())


@pytest.mark.parametrize(("limit", "error"), [(1 << 30, ClientDisconnect), (2 * PART, Refused)])
def test_nothing_is_counted_of_a_body_that_is_not_read_to_its_end(limit, error):
    async def play():
        bodies = BodyReader(max_held_bytes=limit)
        with pytest.raises(error):
            async with bodies.body(request(3, end=False)):
                pass
        assert bodies.held_bytes == 0

    asyncio.run(play())
