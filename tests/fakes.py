"""A backend in the place of an engine: it costs nothing, and can be made to fail."""

import asyncio
import os
import re
import resource
import signal
from collections.abc import Sequence
from pathlib import Path

from infra.digests import digest_bytes
from pipelines.inference.backends.backend import NOTHING, Before, Completion, RowError, ShownImage
from pipelines.inference.config import InferenceConfig

_GLANCE_S = 0.1
_OPTION = re.compile(r"^([A-Z])\. (.*)$", re.MULTILINE)


class FakeEngine:
    """Names the option that its seed picks, after a while. Started as real ones are, with the recipe and its own words.

    seconds: that an answer takes. deadly: words in a prompt that end the engine's whole process, as a fault in a
    kernel does. reads_images: as real ones do, so that a damaged image is met. calls: file to which every request is
    appended, so that a test can count what was asked twice. disk_bytes: no file of the engine's process grows beyond
    it, as on a full disk. broken: the reason for which every request fails. starts: file to which every start is
    appended; failing_starts: which of them, from 1, fail; answers wait until there were waits_for_starts of them.
    """

    def __init__(
        self,
        config: InferenceConfig,
        *,
        seconds: float = 0.0,
        deadly: str = "",
        reads_images: bool = True,
        calls: Path | None = None,
        disk_bytes: int | None = None,
        broken: str = "",
        starts: Path | None = None,
        failing_starts: Sequence[int] = (),
        waits_for_starts: int = 0,
    ) -> None:
        if starts is not None:
            with starts.open("a") as stream:
                stream.write("start\n")
            if len(starts.read_text().splitlines()) in failing_starts:
                raise RuntimeError("The memory is not free yet.")
        if disk_bytes is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes, disk_bytes))
        self.num_at_once = config.engine.max_num_seqs
        self._seconds = seconds
        self._starts = starts
        self._waits_for_starts = waits_for_starts
        self._broken = broken
        self._deadly = deadly
        self._reads_images = reads_images
        self._calls = calls

    async def generate(
        self, prompt: str, images: Sequence[ShownImage], seed: int, before: Before = NOTHING
    ) -> Completion:
        """See `pipelines.inference.backends.backend.Backend`."""
        if self._calls:
            with self._calls.open("a") as stream:
                stream.write(f"{seed} {digest_bytes(prompt.encode())}\n")
        if self._broken:
            raise RowError(self._broken)
        if self._reads_images:
            for image in images:
                image.decode()
        while self._starts and len(self._starts.read_text().splitlines()) < self._waits_for_starts:
            await asyncio.sleep(_GLANCE_S)
        if self._seconds:
            await asyncio.sleep(self._seconds)
        if self._deadly and self._deadly in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        options = _OPTION.findall(prompt)
        letter, option = options[seed % len(options)]
        text = f"What is seen here, in the middle and at its border, leads to one answer.\nAnswer: {option} ({letter})"
        return Completion(text=text, finish_reason="stop", num_prompt_tokens=40, num_output_tokens=20, logprobs=(-0.1,))

    async def close(self) -> None:
        """There is nothing to end."""
