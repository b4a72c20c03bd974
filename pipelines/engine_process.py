"""The process that vLLM starts for an engine's core, which imports for as long as the one that starts it: with thrift.

Light: vLLM is imported when an engine starts.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any
from unittest.mock import patch

from infra.imports import thrift


@contextmanager
def started_with_thrift() -> Iterator[None]:
    """Engines that start in here import with thrift, in this process and in their own, in two thirds of the time."""
    with thrift():
        from vllm.v1.engine import utils

        usual = utils.get_mp_context

        def context() -> Any:
            found = usual()
            return _ThriftyContext() if found.get_start_method() == "spawn" else found

        with patch.object(utils, "get_mp_context", context):
            yield


class _ThriftyProcess(SpawnProcess):
    """Arrives in its new interpreter before what it will work with, since unpickling that imports vLLM; and is thrifty
    until vLLM, with the engine up, takes all that it has by then out of the search for garbage."""

    _thrift: ExitStack

    def __reduce__(self) -> tuple[Any, ...]:
        return _arriving, (), vars(self)

    def run(self) -> None:
        from vllm.v1.engine import core

        freeze = core.freeze_gc_heap

        def end_thrift() -> None:
            gc.collect()  # once, for what loading has left; vLLM would look through everything three times
            self._thrift.close()
            freeze()

        core.freeze_gc_heap = end_thrift
        super().run()


def _arriving() -> _ThriftyProcess:
    process = _ThriftyProcess.__new__(_ThriftyProcess)
    process._thrift = ExitStack()
    process._thrift.enter_context(thrift())
    return process


class _ThriftyContext(SpawnContext):
    Process = _ThriftyProcess
