"""What the driver and the workers of a fit tell each other: the work, the loss curve as it grows, and the outcome.

The curve is a file beside the checkpoints, on storage that all of them share: the first rank writes a line for each
finished step, and the driver reads along. After a restart it goes on at a checkpoint, and a step's later line holds.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from infra.errors import ArtifactError
from train.recipes import FitConfig

CHECKPOINTS_KEPT = 2  # the newest of a fit
_CURVE = "curve.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One arm's fit, as its workers are told of it. Paths are absolute and on storage that all workers share.

    base: the model's folder, or its hub id. examples: the folder of the arm's table. images: the one that its image
    paths are below. rationales: the one of what the teacher held likely. checkpoints: where the fit's state is kept,
    and its loss curve. folder: where the first rank writes the adapter. card: the adapter's README.
    """

    config: FitConfig
    base: str
    examples: Path
    images: Path
    rationales: Path
    checkpoints: Path
    folder: Path
    card: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the workers counted. reasons: examples left out, by reason. num_targets: supervised tokens of an epoch;
    num_told: of these at which the teacher's distribution is known. best_step: the one whose adapter was taken.
    seconds: that all steps since the last start took, with what is done between them."""

    num_examples: int
    num_trained_on: int
    reasons: dict[str, int]
    num_trainable: int
    num_targets: int
    num_told: int
    last_step: int
    best_step: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A finished step, over all ranks.

    loss: cross entropy per supervised token of its whole batch. divergence: from the teacher, per token at which its
    distribution is known; None where it is not learned from. learning_rate: that it was taken at. gradient_norm:
    before clipping.
    num_tokens, num_targets: of its batch, the latter those that are trained on. seconds: that the first rank took;
    computing_s: of these, in forward and backward passes and the optimizer; reading_s: until packs were read, the
    vision tower's part aside. memory_gib: peak, of the first rank's GPU, or of its process. utilization: of the GPUs,
    in model FLOPs, where their speed is known.
    validation_loss, validation_accuracy, validation_divergence: likewise of what is held out, where it was looked at.
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
    """Appends points to the curve of a folder; only the first rank's writes, the others' do nothing."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._stream: TextIO | None = None

    def __enter__(self) -> "CurveWriter":
        if self._rank == 0:
            with writing(self._folder):
                self._stream = (self._folder / _CURVE).open("a", buffering=1)
                self._stream.write("\n")  # what a kill left of a last line ends here
        return self

    def add(self, point: Point) -> None:
        """Add a point, to be read at once."""
        if self._stream:
            with writing(self._folder):
                self._stream.write(json.dumps(dataclasses.asdict(point)) + "\n")

    def sync(self) -> None:
        """See to it that what was added outlives the machine."""
        if self._stream:
            with writing(self._folder):
                os.fsync(self._stream.fileno())

    def __exit__(self, *error: object) -> None:
        if self._stream:
            self._stream.close()


class CurveReader:
    """Reads along while a folder's curve grows."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _CURVE
        self._offset = 0
        self._points: dict[int, Point] = {}

    def new_points(self) -> list[Point]:
        """The points that were added since the last call; what was cut by a kill is passed over."""
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
        """All points up to a step, in order: of a step that was taken twice, the later one."""
        return [self._points[step] for step in sorted(self._points) if step <= last_step]


def _parsed(line: str) -> Point | None:
    try:
        return Point(**json.loads(line))
    except (ValueError, TypeError):
        return None


def save_tensors(tensors: Mapping[str, Any], path: Path) -> None:
    """Write tensors as safetensors. Raises OSError on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error  # what a full disk is to safetensors


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one clear ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder} could not be written: {error}. Free space or choose another --run-dir."
        ) from error
