"""The process of an engine's core: it imports what it stands on beside the process that starts it, and not after it.

Light: vLLM is imported when an engine starts.
"""

import gc
import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

from infra.imports import pause_garbage_collection, skip_optional_imports

_PRELOAD = "LD_PRELOAD"


@contextmanager
def core_started_early() -> Iterator[None]:
    """Engines that start in the body import without what they do not need, in this process and at the same time in that
    of their core.

    A process that has not become a core by the end is killed.
    """
    waiting = _Core()
    try:
        with skip_optional_imports(), pause_garbage_collection():
            from vllm.v1.engine import utils

            usual = utils.get_mp_context

            def context() -> Any:
                found = usual()
                return _Context(waiting) if found.get_start_method() == "spawn" else found

            with patch.object(utils, "get_mp_context", context):
                yield
            gc.freeze()  # what is there now stays: nobody looks through it for garbage while requests wait
    finally:
        waiting.end_unless_at_work()


class _Core(SpawnProcess):
    """Imports from its start on, and waits there for what it is to do; `start` then hands that over."""

    def __init__(self) -> None:
        receiver, self._sender = SpawnContext().Pipe(duplex=False)
        super().__init__(target=_do_what_comes, args=(receiver,))
        self._work: tuple[Any, ...] | None = None
        self._preloaded = _to_preload()
        with patch.dict(os.environ, {_PRELOAD: self._preloaded}):
            super().start()
        receiver.close()

    def __getstate__(self) -> dict[str, Any]:
        # The sender stays here, so that the child hears when this process ends.
        return {name: value for name, value in vars(self).items() if name != "_sender"}

    @property
    def is_free(self) -> bool:
        """Whether it has no work yet, and was started as a new one would be."""
        return self._work is None and os.environ.get(_PRELOAD, "") in ("", self._preloaded)

    def take(self, target: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> SpawnProcess:
        """Know what it is to do when it is told to start."""
        self.name = name
        self._work = target, kwargs
        return self

    def start(self) -> None:
        """Hand the work over, with the environment of this moment."""
        self._sender.send((self.name, dict(os.environ), *(self._work or ())))
        self._sender.close()

    def end_unless_at_work(self) -> None:
        """End it at once where nothing was handed over, or not all of it."""
        if not self._sender.closed:
            self._sender.close()
            self.kill()
            self.join()


class _Context(SpawnContext):
    """Gives the waiting process to the first who asks for one, and new ones to all others."""

    def __init__(self, waiting: _Core) -> None:
        self._waiting = waiting

    def Process(self, *, target: Callable[..., Any], name: str, kwargs: Mapping[str, Any]) -> SpawnProcess:  # type: ignore[override]  # noqa: N802
        """As vLLM asks for one."""
        if self._waiting.is_free:
            return self._waiting.take(target, name, kwargs)
        return SpawnProcess(target=target, name=name, kwargs=kwargs)


def _to_preload() -> str:
    """LD_PRELOAD of a core's process: with torch's own OpenMP, as vLLM would set it on a CPU, lest there be two."""
    origin = getattr(importlib.util.find_spec("torch"), "origin", None)
    if not origin:
        return os.environ.get(_PRELOAD, "")
    torch = Path(origin).parent
    found = [path for folder in (torch.with_name("torch.libs"), torch / "lib") for path in folder.glob("libgomp*.so*")]
    return os.pathsep.join(filter(None, [os.environ.get(_PRELOAD, ""), *map(str, found[:1])]))


def _do_what_comes(receiver: Connection) -> None:
    """In the core's process: import, wait for work, and do it. Imports are quick until the engine is up, when vLLM
    freezes what there is."""
    import setproctitle

    setproctitle.getproctitle()  # finds the title in front of the first variable, so it looks before any is changed
    with ExitStack() as while_starting:
        while_starting.enter_context(skip_optional_imports())
        while_starting.enter_context(pause_garbage_collection())
        from vllm.v1.engine import core

        try:
            name, environment, target, kwargs = receiver.recv()
        except EOFError:
            os._exit(0)  # whoever started it has ended; Python's own end would complain of what vLLM leaves
        multiprocessing.current_process().name = name
        os.environ.clear()
        os.environ.update(environment)
        freeze = core.freeze_gc_heap

        def end_start_up() -> None:
            gc.collect()  # once, for what loading has left; vLLM would look through everything three times
            gc.freeze()
            while_starting.close()
            freeze()

        core.freeze_gc_heap = end_start_up
        target(**kwargs)
