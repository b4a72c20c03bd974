"""Requests of many clients -> turns at one engine, in bounded number and a fair order.

Start-time fair queueing (Goyal, Vin and Cheng, 1996): each client's requests carry tags that advance by the tokens that
they ask for, and the lowest tag is next. Who asks for much waits behind itself, not others behind it.
"""

import asyncio
import dataclasses
import heapq
import itertools
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from serve.api.errors import Refused

_SMALL_TOKENS = 256
_LONGEST_PAUSE_S = 60
_MEASURED_ENDS = 64
_LEAST_REMEMBERED = 256


@dataclasses.dataclass(order=True)
class _Waiting:
    tag: float
    number: int
    client: str = dataclasses.field(compare=False)
    answers: int = dataclasses.field(compare=False)
    turn: "asyncio.Future[None]" = dataclasses.field(compare=False)


class FairQueue:
    """Turns at one engine. capacity: answers that are under way at the same time. max_waiting: requests that wait.

    When all places to wait are taken, the client that holds most of them loses its last one to a client that holds
    fewer, and is told when to ask again.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._most_remembered = max(_LEAST_REMEMBERED, max_waiting)
        self._waiting: list[_Waiting] = []
        self._waiting_of: Counter[str] = Counter()
        self._under_way = 0
        self._time = 0.0  # the tag of the request whose turn came last
        self._next_tag: dict[tuple[str, bool], float] = {}
        self._numbers = itertools.count()
        self._ends: deque[float] = deque(maxlen=_MEASURED_ENDS)

    @asynccontextmanager
    async def turn(self, client: str, answers: int, tokens: int) -> AsyncIterator[None]:
        """Wait for a turn and keep it until the block ends; raises Refused (429) when there is no place to wait."""
        await self._wait(client, answers, tokens)
        try:
            yield
        finally:
            self._under_way -= answers
            self._ends.append(time.monotonic())
            self._give_turns()

    def _tag(self, client: str, tokens: int) -> float:
        """A client's small requests have tags of their own, so that they do not wait for its large ones."""
        flow = (client, tokens <= _SMALL_TOKENS)
        tag = max(self._time, self._next_tag.get(flow, 0.0))
        self._next_tag[flow] = tag + tokens
        if len(self._next_tag) > 2 * self._most_remembered:
            self._forget_the_lightest()
        return tag

    def _forget_the_lightest(self) -> None:
        """Keep the clients that have asked for most. One request of each of many clients moves no tag on, so that none
        of them ever catches up; to forget one gives it a few tokens back.
        """
        heaviest = heapq.nlargest(self._most_remembered, self._next_tag.items(), key=lambda item: item[1])
        self._next_tag = dict(heaviest)

    async def _wait(self, client: str, answers: int, tokens: int) -> None:
        if not self._waiting and self._has_room(answers):
            self._begin(answers, self._tag(client, tokens))
            return
        if len(self._waiting) >= self._max_waiting:
            self._make_place_for(client)
        turn = asyncio.get_running_loop().create_future()
        waiting = _Waiting(self._tag(client, tokens), next(self._numbers), client, answers, turn)
        heapq.heappush(self._waiting, waiting)
        self._waiting_of[client] += 1
        try:
            await waiting.turn
        except BaseException:
            if waiting.turn.cancelled():
                self._remove(waiting)
                self._give_turns()  # there may be room for those behind it
            elif not waiting.turn.exception():  # its turn came in the moment in which its client went away
                self._under_way -= answers
                self._give_turns()
            raise

    def _has_room(self, answers: int) -> bool:
        return self._under_way + answers <= self._capacity or self._under_way == 0

    def _begin(self, answers: int, tag: float) -> None:
        self._under_way += answers
        self._time = max(self._time, tag)

    def _give_turns(self) -> None:
        while self._waiting and self._has_room(self._waiting[0].answers):
            first = heapq.heappop(self._waiting)
            self._leave(first)
            if not first.turn.done():
                self._begin(first.answers, first.tag)
                first.turn.set_result(None)

    def _make_place_for(self, client: str) -> None:
        """Send away the last request of the client that has most waiting; raises Refused when that is this client."""
        longest, most = self._waiting_of.most_common(1)[0]
        refused = Refused(
            HTTPStatus.TOO_MANY_REQUESTS, "The endpoint is busy; ask again later.", retry_after_s=self._pause_s()
        )
        if self._waiting_of[client] + 1 >= most:
            raise refused
        last = max(waiting for waiting in self._waiting if waiting.client == longest)
        self._remove(last)
        if not last.turn.done():  # its client may have gone away in this moment
            last.turn.set_exception(refused)
        self._give_turns()

    def _remove(self, waiting: _Waiting) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            heapq.heapify(self._waiting)
            self._leave(waiting)

    def _leave(self, waiting: _Waiting) -> None:
        self._waiting_of[waiting.client] -= 1
        if not self._waiting_of[waiting.client]:
            del self._waiting_of[waiting.client]

    def _pause_s(self) -> int:
        """After how many seconds those that wait now will have had their turns, at the pace of the last ones."""
        if len(self._ends) < 2:  # noqa: PLR2004 - a pace needs two
            return 1
        pace_per_s = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-3)
        return min(_LONGEST_PAUSE_S, max(1, math.ceil(len(self._waiting) / pace_per_s)))
