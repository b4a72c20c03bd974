"""Requests of many clients -> turns at one engine, in bounded number and a fair order.

Of those who wait, the client that has been given the fewest tokens is next, of its users the one that has been given
the fewest, and then the request that came first. Who asks for much waits behind itself, others do not wait behind it.
"""

import asyncio
import dataclasses
import math
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

from serve.api.errors import Refused

_SMALL_TOKENS = 256
_LONGEST_PAUSE_S = 60
_MEASURED_ENDS = 64


@dataclasses.dataclass(frozen=True)
class Asked:
    """Who asks for a turn, and for what. client: an address, which is not chosen freely. user: as the client says."""

    client: str
    user: str
    answers: int
    tokens: int

    @property
    def flow(self) -> tuple[str, bool]:
        """A user's small requests are served as those of another one, so that they do not wait for its large ones."""
        return self.user, self.tokens <= _SMALL_TOKENS


@dataclasses.dataclass(eq=False)
class _Waiting:
    asked: Asked
    turn: "asyncio.Future[None]"


@dataclasses.dataclass
class _Flow:
    """Requests of one user that wait, in the order in which they came. tokens: given to it while it waited."""

    tokens: float
    waiting: deque[_Waiting] = dataclasses.field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.waiting)


@dataclasses.dataclass
class _Client:
    """A client's users that wait. tokens: given to all of them while any of them waited."""

    tokens: float
    flows: dict[tuple[str, bool], _Flow] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.flows.values()))


class FairQueue:
    """Turns at one engine. capacity: answers that are under way at the same time. max_waiting: requests that wait.

    When all places to wait are taken, the client that holds most of them loses its last one to a client that holds
    fewer, and so among the users of a client; whoever loses its place is told when to ask again.
    """

    def __init__(self, capacity: int, max_waiting: int) -> None:
        self._capacity = capacity
        self._max_waiting = max_waiting
        self._clients: dict[str, _Client] = {}  # those that wait, and no others
        self._under_way = 0
        self._ends: deque[float] = deque(maxlen=_MEASURED_ENDS)

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._clients.values()))

    @asynccontextmanager
    async def turn(self, asked: Asked) -> AsyncIterator[None]:
        """Wait for a turn and keep it until the block ends; raises Refused (429) when there is no place to wait."""
        await self._wait(asked)
        try:
            yield
        finally:
            self._ends.append(time.monotonic())
            self._let_go(asked)

    async def _wait(self, asked: Asked) -> None:
        if not self._clients and self._has_room(asked.answers):
            self._under_way += asked.answers
            return
        if len(self) >= self._max_waiting:
            self._make_place_for(asked)
        waiting = _Waiting(asked, asyncio.get_running_loop().create_future())
        self._add(waiting)
        try:
            await waiting.turn
        except BaseException:
            if waiting.turn.cancelled():
                self._remove(waiting)
                self._give_turns()  # there may be room for those behind it
            elif not waiting.turn.exception():  # its turn came in the moment in which its client went away
                self._let_go(asked)
            raise

    def _add(self, waiting: _Waiting) -> None:
        """Who begins to wait has been given as much as the one that has been given the fewest."""
        asked = waiting.asked
        if asked.client not in self._clients:
            self._clients[asked.client] = _Client(min((each.tokens for each in self._clients.values()), default=0.0))
        flows = self._clients[asked.client].flows
        if asked.flow not in flows:
            flows[asked.flow] = _Flow(min((each.tokens for each in flows.values()), default=0.0))
        flows[asked.flow].waiting.append(waiting)

    def _remove(self, waiting: _Waiting) -> None:
        asked = waiting.asked
        client = self._clients.get(asked.client)
        flow = client.flows.get(asked.flow) if client else None
        if client is None or flow is None or waiting not in flow.waiting:
            return
        flow.waiting.remove(waiting)
        if not flow:
            del client.flows[asked.flow]
        if not client.flows:
            del self._clients[asked.client]

    def _has_room(self, answers: int) -> bool:
        return self._under_way + answers <= self._capacity or self._under_way == 0

    def _let_go(self, asked: Asked) -> None:
        self._under_way -= asked.answers
        self._give_turns()

    def _give_turns(self) -> None:
        while self._clients:
            client = min(self._clients.values(), key=lambda each: each.tokens)
            flow = min(client.flows.values(), key=lambda each: each.tokens)
            first = flow.waiting[0]
            if not self._has_room(first.asked.answers):
                return
            client.tokens += first.asked.tokens
            flow.tokens += first.asked.tokens
            self._remove(first)
            if not first.turn.done():
                self._under_way += first.asked.answers
                first.turn.set_result(None)

    def _make_place_for(self, asked: Asked) -> None:
        """Send away the last request of whoever has most waiting; raises Refused when that is who asks."""
        own = self._clients.get(asked.client, _Client(0.0))
        longest = max(self._clients.values(), key=len, default=own)
        if len(longest) <= len(own) + 1:
            longest = own
        flow = max(longest.flows.values(), key=len, default=None)
        if flow is None or (longest is own and len(flow) <= len(own.flows.get(asked.flow, ())) + 1):
            raise self._busy()
        last = flow.waiting[-1]
        self._remove(last)
        if not last.turn.done():  # its client may have gone away in this moment
            last.turn.set_exception(self._busy())
        self._give_turns()

    def _busy(self) -> Refused:
        message = "The endpoint is busy; ask again later."
        return Refused(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_s=self._pause_s())

    def _pause_s(self) -> int:
        """After how many seconds those that wait now will have had their turns, at the pace of the last ones."""
        if len(self._ends) < 2:  # noqa: PLR2004 - a pace needs two
            return 1
        pace_per_s = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-3)
        return min(_LONGEST_PAUSE_S, max(1, math.ceil(len(self) / pace_per_s)))
