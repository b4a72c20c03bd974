"""The deployment that listens: requests reach it directly, without Ray Serve's proxy.

The proxy would hold every body in another process, has no time limit for headers, queues without bound, and adds a hop
for each piece of an answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from serve.api import listener
from serve.api.access_control import AccessControl
from serve.api.fair_queue import FairQueue
from serve.api.ingress import Engine, Ingress
from serve.api.validation import Limits

_SLOTS_PER_SEQUENCE = 2  # one is written, and the images of the next are prepared meanwhile
_WAITING_PER_SEQUENCE = 4


class HttpEndpoint:
    """One HTTP server for all models; Ray Serve starts it again when it ends.

    handles: engine name -> handle of its replicas. num_sequences: engine name -> answers that all its replicas together
    write at the same time. models: model name -> engine name. key_digest: of the key that requests must carry, or None.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        handles: Mapping[str, Any],
        num_sequences: Mapping[str, int],
        models: Mapping[str, str],
        key_digest: str | None,
        limits: Limits,
        answer_timeout_s: float,
        host: str,
        port: int,
    ) -> None:
        engines = {
            name: Engine(
                handle=handle,
                queue=FairQueue(
                    num_slots=_SLOTS_PER_SEQUENCE * num_sequences[name],
                    max_waiting=_WAITING_PER_SEQUENCE * num_sequences[name],
                ),
            )
            for name, handle in handles.items()
        }
        ingress = Ingress(engines, models, AccessControl(key_digest), limits, answer_timeout_s=answer_timeout_s)
        self._server = listener.server(ingress.app())
        self._serving = asyncio.create_task(self._server.serve([listener.listen(host, port)]))

    async def check_health(self) -> None:
        """Called by Serve at intervals; raises when the server has ended."""
        if self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def __del__(self) -> None:
        """Called by Serve before it stops the deployment: running answers are finished."""
        self._server.should_exit = True
        await self._serving
