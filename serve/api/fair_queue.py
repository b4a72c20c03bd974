"""Requests of many clients -> slots of one engine, bounded in number and given in a fair order.

A slot is one answer that the engine works on. Among the waiting requests, those of the client that was given the fewest
tokens come first; among these, those of the user that was given the fewest; and then the oldest request. So a client
that asks for much waits for its own requests, and nobody else waits for them.
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
_MAX_RETRY_AFTER_S = 60
_MEASURED_ENDS = 64


@dataclasses.dataclass(frozen=True)
class QueuedRequest:
    """A request for slots. client: its address, which it cannot choose freely. user: whatever name the client gives.
    num_answers: slots that it takes. num_tokens: of all its answers.
    """

    client: str
    user: str
    num_answers: int
    num_tokens: int

    @property
    def flow(self) -> tuple[str, bool]:
        """Its queue among those of its client. A user's small requests have one of their own, so that they do not wait
        for its large ones.
        """
        return self.user, self.num_tokens <= _SMALL_TOKENS


@dataclasses.dataclass(eq=False)
class _Waiting:
    request: QueuedRequest
    granted: "asyncio.Future[None]"


@dataclasses.dataclass
class _Flow:
    """Waiting requests of one user, oldest first. tokens: given to the user while it had requests waiting."""

    tokens: float
    waiting: deque[_Waiting] = dataclasses.field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.waiting)


@dataclasses.dataclass
class _Client:
    """The flows of one client that have requests waiting. tokens: given to the client while it had any."""

    tokens: float
    flows: dict[tuple[str, bool], _Flow] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.flows.values()))


class FairQueue:
    """The slots of one engine. num_slots: answers at the same time. max_waiting: requests that wait.

    When max_waiting are waiting, the client with the most of them loses its newest one to a client that has fewer, and
    likewise among the users of one client. The request that is refused is told when to ask again.
    """

    def __init__(self, num_slots: int, max_waiting: int) -> None:
        self._num_slots = num_slots
        self._max_waiting = max_waiting
        self._clients: dict[str, _Client] = {}  # those with requests waiting, and no others
        self.num_used_slots = 0
        self._ends: deque[float] = deque(maxlen=_MEASURED_ENDS)

    def __len__(self) -> int:
        """How many requests wait."""
        return sum(map(len, self._clients.values()))

    @asynccontextmanager
    async def slots(self, request: QueuedRequest) -> AsyncIterator[None]:
        """Wait for a request's slots and keep them until the block ends; raises Refused (429) when too many wait."""
        await self._acquire(request)
        try:
            yield
        finally:
            self._ends.append(time.monotonic())
            self._release(request)

    async def _acquire(self, request: QueuedRequest) -> None:
        if not self._clients and self._fits(request):
            self.num_used_slots += request.num_answers
            return
        if len(self) >= self._max_waiting:
            self._evict_for(request)
        waiting = _Waiting(request, asyncio.get_running_loop().create_future())
        self._enqueue(waiting)
        try:
            await waiting.granted
        except BaseException:
            if waiting.granted.cancelled():
                self._remove(waiting)
                self._grant()  # requests behind it may fit now
            elif not waiting.granted.exception():  # its client disconnected in the moment in which it was granted
                self._release(request)
            raise

    def _enqueue(self, waiting: _Waiting) -> None:
        """A client or user that starts to wait is counted as given as much as the one that was given the fewest."""
        request = waiting.request
        if request.client not in self._clients:
            self._clients[request.client] = _Client(min((each.tokens for each in self._clients.values()), default=0.0))
        flows = self._clients[request.client].flows
        if request.flow not in flows:
            flows[request.flow] = _Flow(min((each.tokens for each in flows.values()), default=0.0))
        flows[request.flow].waiting.append(waiting)

    def _remove(self, waiting: _Waiting) -> None:
        request = waiting.request
        client = self._clients.get(request.client)
        flow = client.flows.get(request.flow) if client else None
        if client is None or flow is None or waiting not in flow.waiting:
            return
        flow.waiting.remove(waiting)
        if not flow:
            del client.flows[request.flow]
        if not client.flows:
            del self._clients[request.client]

    def _fits(self, request: QueuedRequest) -> bool:
        """Whether there are slots for all its answers; a request for more than num_slots has the engine alone."""
        return self.num_used_slots + request.num_answers <= self._num_slots or self.num_used_slots == 0

    def _release(self, request: QueuedRequest) -> None:
        self.num_used_slots -= request.num_answers
        self._grant()

    def _grant(self) -> None:
        """Give free slots to waiting requests, in their order, until the next one does not fit."""
        while self._clients:
            client = min(self._clients.values(), key=lambda each: each.tokens)
            flow = min(client.flows.values(), key=lambda each: each.tokens)
            first = flow.waiting[0]
            if not self._fits(first.request):
                return
            client.tokens += first.request.num_tokens
            flow.tokens += first.request.num_tokens
            self._remove(first)
            if not first.granted.done():
                self.num_used_slots += first.request.num_answers
                first.granted.set_result(None)

    def _evict_for(self, request: QueuedRequest) -> None:
        """Refuse the newest request of the client with the most waiting; raises Refused when that is this client."""
        own = self._clients.get(request.client, _Client(0.0))
        longest = max(self._clients.values(), key=len, default=own)
        if len(longest) <= len(own) + 1:
            longest = own
        flow = max(longest.flows.values(), key=len, default=None)
        if flow is None or (longest is own and len(flow) <= len(own.flows.get(request.flow, ())) + 1):
            raise self._busy()
        newest = flow.waiting[-1]
        self._remove(newest)
        if not newest.granted.done():  # its client may have disconnected in this moment
            newest.granted.set_exception(self._busy())
        self._grant()

    def _busy(self) -> Refused:
        message = "The endpoint is busy; ask again later."
        return Refused(HTTPStatus.TOO_MANY_REQUESTS, message, retry_after_s=self._retry_after_s())

    def _retry_after_s(self) -> int:
        """In how many seconds the requests that wait now will have had their slots, at the pace of the last ones."""
        if len(self._ends) < 2:  # noqa: PLR2004 - a pace needs two
            return 1
        pace_per_s = (len(self._ends) - 1) / max(self._ends[-1] - self._ends[0], 1e-3)
        return min(_MAX_RETRY_AFTER_S, max(1, math.ceil(len(self) / pace_per_s)))
