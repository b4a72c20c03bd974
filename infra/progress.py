"""Progress of long work: plain lines on a stage's standard output, which a driver may draw as a bar."""

import re
import sys
import time

LINE = re.compile(r"^(?P<stage>[a-z_]+): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\S+)(?P<rest>.*)$")


class Progress:
    """Counts finished units of a stage and prints a line at most every `every_s` seconds, and at the end.

    A line reads `teach: 120/600 rationales, 41/s, 12 s left, failed 1`.
    """

    def __init__(self, stage: str, every_s: float = 2.0) -> None:
        self.stage = stage
        self._every_s = every_s
        self._started = self._printed = 0.0
        self._done = 0

    def say(self, words: str) -> None:
        """Print one line of the stage's own."""
        print(f"{self.stage}: {words}", flush=True)

    def count(self, done: int, unit: str) -> None:
        """Say that `done` units are finished of an unknown number; prints when a line is due."""
        now = time.monotonic()
        if done <= self._done or not self._started:
            self._started = self._printed = now
        self._done = done
        if now - self._printed >= self._every_s:
            self._printed = now
            self.say(f"{done} {unit}, {done / (now - self._started):.1f}/s")

    def __call__(self, done: int, total: int, unit: str, **counts: int | float | str) -> None:
        """Say that `done` of `total` units are finished, with further counts; prints when a line is due."""
        now = time.monotonic()
        if done <= self._done or not self._started:  # a new count; time before its first unit is start-up
            self._started = self._printed = now
        self._done = done
        if done < total and now - self._printed < self._every_s:
            return
        self._printed = now
        rate = done / max(now - self._started, 1e-6)
        left = f", {(total - done) / rate:.0f} s left" if 0 < done < total else ""
        further = "".join(f", {name.replace('_', ' ')} {value}" for name, value in counts.items())
        self.say(f"{done}/{total} {unit}, {rate:.1f}/s{left}{further}")


class Screen:
    """Shows the lines of stages to a person: on a terminal a counting line redraws itself as a bar."""

    def __init__(self, width: int = 24) -> None:
        self._bars = sys.stdout.isatty()
        self._width = width
        self._open = False

    def show(self, line: str) -> None:
        """Show a stage's line."""
        counting = LINE.match(line) if self._bars else None
        if counting:
            filled = self._width * int(counting["done"]) // max(int(counting["total"]), 1)
            bar = "█" * filled + "░" * (self._width - filled)
            print(f"\r\x1b[K{counting['stage']:>10} {bar} {line.partition(': ')[2]}", end="", flush=True)
            self._open = counting["done"] != counting["total"]
            if not self._open:
                print(flush=True)
            return
        print(("\n" if self._open else "") + line, flush=True)
        self._open = False
