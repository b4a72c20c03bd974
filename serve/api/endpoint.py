"""The deployment that listens: requests reach it directly, without Ray Serve's proxy between.

The proxy would hold each request's body for us to read over another process, has no time limit for headers, queues
without bound, and costs a hop for each piece of an answer.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from serve.api import listener
from serve.api.guard import Guard
from serve.api.ingress import Engine, Ingress
from serve.api.queueing import FairQueue
from serve.api.validation import Limits

_TURNS_PER_SEQUENCE = 2  # under way for each that the engine writes at once: the next ones' images are made ready
_WAITING_PER_SEQUENCE = 4


class HttpEndpoint:
    """One HTTP server for all models; Ray Serve starts it again when it ends.

    handles: engine name -> handle of its replicas. sequences: engine name -> how many answers all its replicas write at
    the same time. models: model name -> engine name.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        handles: Mapping[str, Any],
        sequences: Mapping[str, int],
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
                queue=FairQueue(_TURNS_PER_SEQUENCE * sequences[name], _WAITING_PER_SEQUENCE * sequences[name]),
            )
            for name, handle in handles.items()
        }
        ingress = Ingress(engines, models, Guard(key_digest), limits, answer_timeout_s=answer_timeout_s)
        self._server = listener.server(ingress.app())
        self._serving = asyncio.create_task(self._server.serve([listener.listen(host, port)]))

    async def check_health(self) -> None:
        """Called by Serve at intervals; raises when the server has ended."""
        if self._serving.done():
            raise RuntimeError("the HTTP server has ended")

    async def __del__(self) -> None:
        """Called by Serve before it stops the deployment: answers that are under way are finished."""
        self._server.should_exit = True
        await self._serving
