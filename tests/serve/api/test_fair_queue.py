"""Turns at an engine: bounded, fair, and never lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.errors import Refused
from serve.api.fair_queue import FairQueue, QueuedRequest


class Line:
    """Requests at a queue, which get their slots one after the other and give them back by name."""

    def __init__(self, queue):
        self._queue = queue
        self.served, self._done, self._tasks = [], {}, {}

    def start(self, name, client="a", user="", answers=1, tokens=100):
        self._done[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._hold(name, QueuedRequest(client, user, answers, tokens)))
        return self._tasks[name]

    async def ask(self, name, **what):
        self.start(name, **what)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _hold(self, name, asked):
        async with self._queue.slots(asked):
            self.served.append(name)
            await self._done[name].wait()

    async def finish(self, name):
        self._done[name].set()
        await self._tasks[name]
        await asyncio.sleep(0)

    async def leave(self, name):
        self._tasks[name].cancel()
        await asyncio.wait([self._tasks[name]])
        await asyncio.sleep(0)

    def refusal(self, name):
        return self._tasks[name].exception() if self._tasks[name].done() else None


def test_a_client_with_many_requests_does_not_keep_another_waiting():
    async def play():
        line = Line(FairQueue(1, 100))
        for number in range(10):
            await line.ask(f"many{number}", client="many", tokens=1000)
        await line.ask("one", client="one", tokens=1000)
        await line.finish("many0")
        await line.finish(line.served[-1])
        return line.served

    assert "one" in asyncio.run(play())[:3]


def test_small_requests_do_not_wait_behind_their_own_client_s_large_ones():
    async def play():
        line = Line(FairQueue(1, 100))
        for number in range(20):
            await line.ask(f"large{number}", tokens=4096)
        await line.ask("small", tokens=16)
        await line.finish("large0")
        await line.finish(line.served[-1])
        return line.served

    assert "small" in asyncio.run(play())[:3]


def test_clients_share_by_tokens_and_not_by_requests():
    async def play():
        line = Line(FairQueue(1, 1000))
        await line.ask("first", client="x")
        for number in range(40):
            await line.ask(f"heavy{number}", client="heavy", tokens=4000)
            await line.ask(f"light{number}", client="light", tokens=1000)
        await line.finish("first")
        for _ in range(25):
            await line.finish(line.served[-1])
        return line.served[1:26]

    served = asyncio.run(play())
    heavy = sum(name.startswith("heavy") for name in served)
    assert heavy == 5


def test_a_full_queue_refuses_with_a_time_to_ask_again():
    async def play():
        line = Line(FairQueue(1, 2))
        for name in ("served", "waits", "waits too", "refused"):
            await line.ask(name)
        return line.refusal("refused"), line.refusal("waits too")

    refused, waits = asyncio.run(play())
    assert isinstance(refused, Refused)
    assert (refused.status, refused.retry_after_s >= 1, waits) == (429, True, None)


def test_a_full_queue_takes_a_place_from_the_client_that_has_most_of_them():
    async def play():
        line = Line(FairQueue(1, 3))
        for name in ("served", "1", "2", "3"):
            await line.ask(name, client="many")
        await line.ask("one", client="one")
        await line.ask("4", client="many")
        return line.refusal("3"), line.refusal("one"), line.refusal("4")

    sent_away, kept, refused = asyncio.run(play())
    assert (sent_away.status, kept, refused.status) == (429, None, 429)


def test_a_client_that_disconnects_leaves_its_place_and_its_slot_to_others():
    async def play():
        line = Line(FairQueue(1, 10))
        for name in ("a", "b", "c", "d"):
            await line.ask(name)
        await line.leave("b")  # waiting
        await line.leave("a")  # being answered
        await line.finish("c")
        return line.served

    assert asyncio.run(play()) == ["a", "c", "d"]


def test_a_request_that_is_given_up_while_it_waits_lets_smaller_ones_behind_it_through():
    async def play():
        line = Line(FairQueue(4, 10))
        await line.ask("three", answers=3)
        await line.ask("four", answers=4)
        await line.ask("one")
        await line.leave("four")
        return line.served

    assert asyncio.run(play()) == ["three", "one"]


def test_users_of_one_client_share_what_it_gets_and_new_names_get_it_no_more():
    async def play():
        line = Line(FairQueue(1, 1000))
        await line.ask("first", client="x")
        for number in range(30):
            await line.ask(f"crowd{number}", client="crowd", user=f"made up {number}", tokens=1000)
            await line.ask(f"alone{number}", client="alone", tokens=1000)
        await line.finish("first")
        for _ in range(20):
            await line.finish(line.served[-1])
        return line.served[1:21]

    assert sum(name.startswith("crowd") for name in asyncio.run(play())) == 10


def test_names_that_a_client_makes_up_take_no_place_from_another_client():
    async def play():
        line = Line(FairQueue(1, 4))
        for number in range(5):
            await line.ask(f"crowd{number}", client="crowd", user=f"made up {number}")
        await line.ask("one", client="one")
        return line.refusal("one"), [line.refusal(f"crowd{number}") is None for number in range(1, 5)]

    kept, still_waiting = asyncio.run(play())
    assert kept is None
    assert sorted(still_waiting) == [False, True, True, True]


def test_a_user_with_one_request_takes_the_place_of_a_user_of_the_same_client_with_many():
    async def play():
        line = Line(FairQueue(1, 3))
        for name in ("served", "1", "2", "3"):
            await line.ask(name, user="many")
        await line.ask("one", user="one")
        return line.refusal("3"), line.refusal("one")

    sent_away, kept = asyncio.run(play())
    assert (sent_away.status, kept) == (429, None)


def test_a_client_without_waiting_requests_is_forgotten():
    async def play():
        queue = FairQueue(4, 8)
        for number in range(1000):
            async with queue.slots(QueuedRequest(f"client {number}", f"user {number}", 1, 512)):
                pass
        return queue._clients

    assert asyncio.run(play()) == {}


def test_a_place_is_taken_from_a_client_that_disconnects_in_the_same_moment():
    async def play():
        line = Line(FairQueue(1, 3))
        for name in ("served", "1", "2", "3"):
            asked = line.start(name, client="many")
            await asyncio.sleep(0)
        line.start("one", client="one")
        asked.cancel()
        await asyncio.sleep(0)
        for _ in range(4):
            await line.finish(line.served[-1])
        return line.refusal("one"), sorted(line.served)

    assert asyncio.run(play()) == (None, ["1", "2", "one", "served"])


def test_an_error_frees_the_slot():
    async def play():
        queue = FairQueue(1, 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with queue.slots(QueuedRequest("a", "", 1, 1)):
                    raise ZeroDivisionError

    asyncio.run(play())


def test_a_request_for_more_answers_than_there_are_slots_has_the_engine_alone():
    async def play():
        line = Line(FairQueue(4, 10))
        await line.ask("one")
        await line.ask("sixteen", answers=16)
        await line.ask("after")
        before = list(line.served)
        await line.finish("one")
        await line.finish("sixteen")
        return before, line.served

    assert asyncio.run(play()) == (["one"], ["one", "sixteen", "after"])


ONE = st.tuples(
    st.sampled_from("abc"),
    st.sampled_from("uv"),
    st.integers(1, 6),
    st.sampled_from([1, 100, 5000]),
    st.integers(0, 3),
)


@given(st.lists(ONE, max_size=40))
def test_every_request_is_answered_or_refused_and_no_more_slots_are_used_than_there_are(requests):
    async def play():
        queue = FairQueue(4, 6)
        under_way, ended = 0, []

        async def one(client, user, answers, tokens, patience):
            nonlocal under_way
            try:
                async with (
                    asyncio.timeout(None if patience else 0),
                    queue.slots(QueuedRequest(client, user, answers, tokens)),
                ):
                    under_way += answers
                    assert under_way <= 4 or under_way == answers
                    for _ in range(patience):
                        await asyncio.sleep(0)
                    under_way -= answers
                ended.append("answered")
            except Refused:
                ended.append("refused")
            except TimeoutError:
                ended.append("gone")

        await asyncio.wait_for(asyncio.gather(*(one(*request) for request in requests)), 10)
        assert len(ended) == len(requests)
        async with AsyncExitStack() as held:  # all slots are free again, and nothing waits
            for _ in range(4):
                await held.enter_async_context(queue.slots(QueuedRequest("z", "", 1, 1)))
            assert queue.num_used_slots == 4
        assert (len(queue), queue._clients) == (0, {})

    asyncio.run(play())
