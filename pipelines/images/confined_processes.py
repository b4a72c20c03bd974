"""A function and its inputs -> outcomes, computed in child processes that have little memory and limited time.

A decoder that is fed hostile bytes may crash, hang, or fill the memory. It does so in a child, which is replaced when
it dies or takes too long. Only the input in question fails: each child has a pipe of its own, so its death breaks no
other child's, and an input is not blamed for what an earlier one left behind in the same child.
"""

import contextlib
import dataclasses
import math
import multiprocessing
import os
import resource
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Self

TIMED_OUT, CRASHED, OUT_OF_MEMORY = "takes_too_long", "crashes_the_decoder", "needs_too_much_memory"

_QUEUED_PER_CHILD = 8  # inputs under way for each child: one slow input does not stop the others, and few hold memory
_HELD_PER_CHILD = 2  # of these, how many a child holds: the next one is there when it has finished one
_SELF_DESTRUCT_S = 5.0  # after its time limit, a child ends itself: the parent that should have ended it is gone
_PRELOADED = [  # imported once by the server that children are forked from, so that a new child starts at once
    "pipelines.images.sandbox",
    "pipelines.images.same_picture",
    "cv2",
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")),
]
_READY, _DONE, _RAISED = "ready", "done", "raised"  # what a child says, besides OUT_OF_MEMORY


def context() -> ForkServerContext:
    """The multiprocessing context that forks children from a server which has already imported what they need."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(_PRELOADED)
    return made


def confine(environment: dict[str, str], memory_bytes: int) -> None:
    """Limit this process, a child at its start: memory, core dumps, and standard error, where libraries would report
    every damaged byte.

    environment: the parent's, as it is now; the server that forked this child may be older and lack credentials of a
    store. memory_bytes: how much it may take in addition to what it has already.
    """
    os.environ.update(environment)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory_bytes, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@dataclasses.dataclass(slots=True)
class _Job:
    """An input and, once it is done, its outcome or the error to raise."""

    input: Any
    is_done: bool = False
    outcome: Any = None
    error: Exception | None = None


class ConfinedPool:
    """Applies a function to inputs in confined child processes; used as `with ConfinedPool(...) as pool`.

    function: takes one input; both can be pickled. workers: number of children. memory_bytes: of each child, in
    addition to what it has when it starts. timeout_s: seconds that one input may take.
    """

    def __init__(self, function: Callable[[Any], Any], *, workers: int, memory_bytes: int, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._context = context()
        self._child_settings = (function, memory_bytes, timeout_s)
        self._max_queued = workers * _QUEUED_PER_CHILD
        self._waiting: deque[_Job] = deque()
        self._children = [_Child(self._context, *self._child_settings) for _ in range(workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        while self._children:
            self._children.pop().kill()

    def map(self, inputs: Iterable[Any]) -> Iterator[Any]:
        """Yield for each input, in order, what the function returned, or TIMED_OUT, CRASHED or OUT_OF_MEMORY.

        Raises what the function raised, with the child's traceback as a note; RuntimeError when a child cannot start.
        """
        queued: deque[_Job] = deque()
        for each in inputs:
            queued.append(_Job(each))
            self._waiting.append(queued[-1])
            if len(queued) >= self._max_queued:
                yield self._outcome(queued.popleft())
        while queued:
            yield self._outcome(queued.popleft())

    def _outcome(self, job: _Job) -> Any:
        self._hand_out_jobs()
        while not job.is_done:
            self._await_children()
            self._hand_out_jobs()
        if job.error:
            raise job.error
        return job.outcome

    def _hand_out_jobs(self) -> None:
        """Give waiting jobs to the children that hold the fewest."""
        for limit in range(1, _HELD_PER_CHILD + 1):
            for child in self._children:
                if self._waiting and len(child.jobs) < limit:
                    child.give(self._waiting.popleft())

    def _await_children(self) -> None:
        """Wait until a child answers, dies, or has taken too long, and act on it."""
        busy = [child for child in self._children if child.jobs]
        left_s = min(child.since for child in busy) + self._timeout_s - time.monotonic()
        ready = connection.wait([child.pipe for child in busy], None if left_s == math.inf else max(0.0, left_s))
        for child in busy:
            if child.pipe in ready:
                kind, value = child.receive()
                if kind in (CRASHED, OUT_OF_MEMORY):
                    self._replace(child, kind)
                elif kind == _RAISED:
                    child.finish(error=value)
                elif kind == _DONE:
                    child.finish(value)
            elif time.monotonic() - child.since > self._timeout_s:
                self._replace(child, TIMED_OUT)

    def _replace(self, child: "_Child", failure: str) -> None:
        """Kill a child and give its jobs to a new one.

        A crash or a lack of memory may be the effect of an earlier input. So the input is tried once more, and fails
        only where it was the first that its child worked on.
        """
        child.kill()
        if failure == TIMED_OUT or child.is_fresh:
            child.finish(failure)
        successor = _Child(self._context, *self._child_settings)
        for job in child.jobs:
            successor.give(job)
        self._children[self._children.index(child)] = successor


class _Child:
    """A confined process and the jobs that it holds; it works on the first of them.

    since: when it began with that job, by the monotonic clock; infinite until the process is ready, because its start
    is not the fault of an input. is_fresh: whether it has finished no job yet.
    """

    def __init__(
        self, context: ForkServerContext, function: Callable[[Any], Any], memory_bytes: int, timeout_s: float
    ) -> None:
        self.jobs: deque[_Job] = deque()
        self.since = math.inf
        self.is_fresh = True
        self.pipe, far = context.Pipe()
        arguments = (far, dict(os.environ), function, memory_bytes, timeout_s)
        self._process = context.Process(target=_work, args=arguments, daemon=True)
        self._process.start()
        far.close()

    def give(self, job: _Job) -> None:
        """Add a job to those that it holds."""
        if not self.jobs and self.since < math.inf:
            self.since = time.monotonic()
        self.jobs.append(job)
        with contextlib.suppress(OSError):  # the process is dead, which is noticed when its answer is read
            self.pipe.send(job.input)

    def receive(self) -> tuple[str, Any]:
        """What it says: _READY, _DONE with the outcome of its first job, _RAISED with the error, OUT_OF_MEMORY, or
        CRASHED. Raises RuntimeError when it did not start."""
        try:
            kind, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            if self.since < math.inf:
                return CRASHED, None
            self._process.join()
            raise RuntimeError(f"a child of the sandbox ended at its start ({self._process.exitcode})") from error
        self.since = time.monotonic()
        return kind, value

    def finish(self, outcome: Any = None, error: Exception | None = None) -> None:
        """Settle its first job."""
        job = self.jobs.popleft()
        job.is_done, job.outcome, job.error = True, outcome, error
        self.is_fresh = False

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _work(
    pipe: connection.Connection,
    environment: dict[str, str],
    function: Callable[[Any], Any],
    memory_bytes: int,
    timeout_s: float,
) -> None:
    """The child's loop: apply the function to one input after another, until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to act on
    confine(environment, memory_bytes)
    pipe.send((_READY, None))
    with contextlib.suppress(EOFError, OSError):
        while True:
            each = pipe.recv()
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _SELF_DESTRUCT_S)
            pipe.send(_applied(function, each))
            signal.setitimer(signal.ITIMER_REAL, 0)


def _applied(function: Callable[[Any], Any], each: Any) -> tuple[str, Any]:
    try:
        return _DONE, function(each)
    except MemoryError:
        return OUT_OF_MEMORY, None
    except Exception as error:  # noqa: BLE001 - a mistake of ours, which the parent raises
        error.add_note(traceback.format_exc())
        return _RAISED, error
