"""How many requests a backend works on at a time, of which a suspected one takes the places of others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Slots:
    """The places of a backend, of which a request takes one, several or all."""

    def __init__(self, num_slots: int) -> None:
        self._slots = asyncio.Semaphore(num_slots)
        self._gate = asyncio.Lock()

    @asynccontextmanager
    async def hold(self, num_slots: int) -> AsyncIterator[None]:
        """Wait for the slots, in the order of asking, and hold them."""
        held = 0
        try:
            # Whoever gathers several keeps the others from taking what becomes free.
            async with self._gate:
                for _ in range(num_slots):
                    await self._slots.acquire()
                    held += 1
            yield
        finally:
            for _ in range(held):
                self._slots.release()
