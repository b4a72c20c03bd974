"""The loss curve of a fit: a file beside the checkpoints, on storage that the driver and all workers share.

The first rank appends a line for each finished step, and the driver reads the new lines while the fit runs. After a
restart the fit continues from a checkpoint, so a step can occur twice; the later line replaces the earlier one.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import TextIO

from train.disk import disk_errors

_CURVE = "curve.jsonl"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A finished step, over all ranks.

    loss: cross entropy per supervised token of the whole batch, each weighted by its example. divergence: forward KL
    divergence from the teacher, in nats per token that has a teacher's top-k; None without distillation.
    learning_rate: of this step. gradient_norm: before clipping. num_tokens, num_targets: all tokens of the batch, and
    the supervised ones.
    seconds: wall time of the step on the first rank. computing_s: the part of it spent in forward passes, backward
    passes and the optimizer. reading_s: the part spent waiting for packs, the vision encoder's time not included.
    memory_gib: peak so far, of the first rank's GPU, or of its process without a GPU. utilization: model FLOPs
    utilization of the GPUs, from 0 to 1; None where their peak is not known.
    validation_loss, validation_accuracy, validation_divergence: the same of the held-out examples, and the share of
    their supervised tokens that the student ranks first; None at a step without an evaluation.
    """

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float = 0.0
    num_tokens: int = 0
    num_targets: int = 0
    seconds: float = 0.0
    computing_s: float = 0.0
    reading_s: float = 0.0
    memory_gib: float = 0.0
    utilization: float | None = None
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    divergence: float | None = None
    validation_divergence: float | None = None


class CurveWriter:
    """Appends points to the curve of a folder. Only the first rank writes; on the others every method does nothing."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._stream: TextIO | None = None

    def __enter__(self) -> "CurveWriter":
        if self._rank == 0:
            with disk_errors(self._folder):
                self._stream = (self._folder / _CURVE).open("a", buffering=1)
                self._stream.write("\n")  # ends a line that a killed process left unfinished
        return self

    def add(self, point: Point) -> None:
        """Append a point; readers see it at once. Raises ArtifactError on a full disk."""
        if self._stream:
            with disk_errors(self._folder):
                self._stream.write(json.dumps(dataclasses.asdict(point)) + "\n")

    def sync(self) -> None:
        """Flush all points to the storage device, so that they survive a crash of the machine."""
        if self._stream:
            with disk_errors(self._folder):
                os.fsync(self._stream.fileno())

    def __exit__(self, *error: object) -> None:
        if self._stream:
            self._stream.close()


class CurveReader:
    """Reads a folder's curve while it grows."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _CURVE
        self._offset = 0
        self._points: dict[int, Point] = {}

    def new_points(self) -> list[Point]:
        """The points added since the last call. A line that a killed process left unfinished is skipped."""
        if not self._file.exists():
            return []
        with self._file.open() as stream:
            stream.seek(self._offset)
            whole, newline, _ = stream.read().rpartition("\n")
        self._offset += len(whole) + len(newline)
        new = [point for line in whole.splitlines() if (point := _parsed(line)) is not None]
        self._points |= {point.step: point for point in new}
        return new

    def points(self, last_step: int) -> list[Point]:
        """All points up to a step, in order. Of a step that was taken twice, the later point."""
        return [self._points[step] for step in sorted(self._points) if step <= last_step]


def _parsed(line: str) -> Point | None:
    try:
        return Point(**json.loads(line))
    except (ValueError, TypeError):
        return None
