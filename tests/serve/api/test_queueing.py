"""Turns at an engine: bounded, fair, and never lost."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.errors import Refused
from serve.api.queueing import FairQueue


class Line:
    """Requests at a queue, which take their turns one after the other and are let go by name."""

    def __init__(self, queue):
        self._queue = queue
        self.served, self._let_go, self._tasks = [], {}, {}

    def start(self, name, client="a", answers=1, tokens=100):
        self._let_go[name] = asyncio.Event()
        self._tasks[name] = asyncio.ensure_future(self._turn(name, client, answers, tokens))
        return self._tasks[name]

    async def ask(self, name, **what):
        self.start(name, **what)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def _turn(self, name, client, answers, tokens):
        async with self._queue.turn(client, answers, tokens):
            self.served.append(name)
            await self._let_go[name].wait()

    async def finish(self, name):
        self._let_go[name].set()
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


def test_who_goes_away_leaves_its_place_and_its_turn_to_others():
    async def play():
        line = Line(FairQueue(1, 10))
        for name in ("a", "b", "c", "d"):
            await line.ask(name)
        await line.leave("b")  # waiting
        await line.leave("a")  # being answered
        await line.finish("c")
        return line.served

    assert asyncio.run(play()) == ["a", "c", "d"]


def test_who_goes_away_before_its_turn_makes_room_for_smaller_ones_behind_it():
    async def play():
        line = Line(FairQueue(4, 10))
        await line.ask("three", answers=3)
        await line.ask("four", answers=4)
        await line.ask("one")
        await line.leave("four")
        return line.served

    assert asyncio.run(play()) == ["three", "one"]


def test_clients_that_ask_once_are_not_remembered_for_ever_and_those_that_ask_for_much_are():
    async def play():
        queue = FairQueue(4, 8)
        for number in range(5000):
            async with queue.turn(f"once {number}", 1, 512):
                pass
            if not number % 50:
                async with queue.turn("much", 1, 4096):
                    pass
        return queue._next_tag

    remembered = asyncio.run(play())
    assert len(remembered) <= 512
    assert max(remembered, key=remembered.get)[0] == "much"


def test_a_place_is_taken_from_a_client_that_goes_away_in_the_same_moment():
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


def test_an_error_in_a_turn_frees_it():
    async def play():
        queue = FairQueue(1, 0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                async with queue.turn("a", 1, 1):
                    raise ZeroDivisionError

    asyncio.run(play())


def test_more_answers_than_there_is_room_for_have_their_turn_alone():
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


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 6), st.sampled_from([1, 100, 5000]), st.integers(0, 3)),
        max_size=40,
    )
)
def test_whatever_comes_and_goes_every_request_is_answered_or_refused_and_the_room_is_never_exceeded(requests):
    async def play():
        queue = FairQueue(4, 6)
        under_way, ended = 0, []

        async def one(client, answers, tokens, patience):
            nonlocal under_way
            try:
                async with asyncio.timeout(None if patience else 0), queue.turn(client, answers, tokens):
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
        async with AsyncExitStack() as held:  # all of the room is there again, and nobody waits
            for _ in range(4):
                await held.enter_async_context(queue.turn("z", 1, 1))
            assert queue._under_way == 4
        assert (queue._waiting, +queue._waiting_of) == ([], {})

    asyncio.run(play())
