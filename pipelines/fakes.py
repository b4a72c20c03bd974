"""Stand-ins that ship beside the real thing: an OpenAI-compatible endpoint on loopback that answers as it is told."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Reply = Callable[[dict[str, Any]], str | int]


@contextmanager
def endpoint(reply: Reply) -> Iterator[str]:
    """Serve chat completions on a free port of loopback; yields the base URL.

    reply: from a request's body to the text of the answer, or to the HTTP status of a refusal.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(_start(reply), loop).result(timeout=10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _start(reply: Reply) -> tuple[web.AppRunner, int]:
    async def complete(request: web.Request) -> web.Response:
        said = reply(await request.json())
        if isinstance(said, int):
            return web.json_response({"error": {"message": "refused"}}, status=said)
        choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": {"completion_tokens": len(said.split())}})

    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]
