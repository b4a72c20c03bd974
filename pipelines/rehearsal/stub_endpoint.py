"""Stand-ins that ship beside the real thing: an OpenAI-compatible endpoint on loopback that answers as it is told."""

import asyncio
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import web


@dataclasses.dataclass(frozen=True, kw_only=True)
class Said:
    """An answer with all that an endpoint may tell beside its text. after_s: how long it takes."""

    text: str | None = ""
    finish_reason: str = "stop"
    thoughts: str | None = None
    logprobs: Sequence[float] = ()
    num_prompt_tokens: int = 0
    after_s: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The chat completion."""
        message = {"role": "assistant", "content": self.text}
        if self.thoughts is not None:
            message["reasoning_content"] = self.thoughts
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        if self.logprobs:
            choice["logprobs"] = {"content": [{"token": "t", "logprob": value} for value in self.logprobs]}
        used = {"prompt_tokens": self.num_prompt_tokens, "completion_tokens": len((self.text or "").split())}
        return {"object": "chat.completion", "choices": [choice], "usage": used}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refused:
    """A refusal: the HTTP status, what is said about it, and headers."""

    status: int
    message: str = "refused"
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)


Reply = Callable[[dict[str, Any]], "str | int | bytes | Said | Refused"]


@contextmanager
def endpoint(reply: Reply, models: Sequence[str] = (), api_key: str | None = None) -> Iterator[str]:
    """Serve chat completions on a free port of loopback; yields the base URL.

    reply: from a request's body to the answer or its text, to a refusal or its HTTP status, or to bytes that are sent
    as they are. models: what /models lists. api_key: what a request must bring, if anything.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner, port = asyncio.run_coroutine_threadsafe(_start(reply, models, api_key), loop).result(timeout=10)
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        asyncio.run_coroutine_threadsafe(_end(runner), loop).result(timeout=10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=10)
        loop.close()


async def _start(reply: Reply, models: Sequence[str], api_key: str | None) -> tuple[web.AppRunner, int]:
    def is_locked(request: web.Request) -> bool:
        return api_key is not None and request.headers.get("Authorization") != f"Bearer {api_key}"

    async def complete(request: web.Request) -> web.Response:
        if is_locked(request):
            return _refusal(Refused(status=401))
        said = reply(await request.json())
        if isinstance(said, int):
            said = Refused(status=said)
        if isinstance(said, Refused):
            return _refusal(said)
        if isinstance(said, bytes):
            return web.Response(body=said, content_type="application/json")
        answer = Said(text=said) if isinstance(said, str) else said
        await asyncio.sleep(answer.after_s)
        return web.json_response(answer.as_json())

    async def list_models(request: web.Request) -> web.Response:
        if is_locked(request):
            return _refusal(Refused(status=401))
        return web.json_response({"object": "list", "data": [{"id": name, "object": "model"} for name in models]})

    application = web.Application(client_max_size=64 << 20)
    application.router.add_post("/v1/chat/completions", complete)
    application.router.add_get("/v1/models", list_models)
    runner = web.AppRunner(application, shutdown_timeout=1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, runner.addresses[0][1]


async def _end(runner: web.AppRunner) -> None:
    """Close it, and end answers that somebody no longer waits for."""
    await runner.cleanup()
    unfinished = asyncio.all_tasks() - {asyncio.current_task()}
    for task in unfinished:
        task.cancel()
    await asyncio.gather(*unfinished, return_exceptions=True)


def _refusal(refused: Refused) -> web.Response:
    said = {"error": {"message": refused.message}}
    return web.json_response(said, status=refused.status, headers=dict(refused.headers))
