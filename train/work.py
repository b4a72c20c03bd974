"""What the driver and the workers of a fit tell each other: the work, the loss curve as it grows, and the outcome.

The curve is a file in the draft, which lies on storage that all of them share: the first rank writes a line for each
finished step, and the driver reads along.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from infra.errors import ArtifactError
from train.recipes import FitConfig

_CURVE = "curve.jsonl"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """One arm's fit, as its workers are told of it. Paths are absolute and on storage that all workers share.

    base: the model's folder, or its hub id. examples: the folder of the arm's table. images: the one that its image
    paths are below. folder: where the first rank writes the loss curve and the adapter. card: the adapter's README.
    """

    config: FitConfig
    base: str
    examples: Path
    images: Path
    folder: Path
    card: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the workers counted. reasons: examples left out, by reason. seconds: of the loop alone, not of the start."""

    num_examples: int
    num_trained_on: int
    reasons: dict[str, int]
    num_trainable: int
    num_targets: int
    num_tokens: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A finished step: the loss per supervised token of its whole batch, and the learning rate that it was taken at."""

    step: int
    loss: float
    learning_rate: float


class CurveWriter:
    """Appends points to the curve of a folder; only the first rank's writes, the others' do nothing."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._stream: TextIO | None = None

    def __enter__(self) -> "CurveWriter":
        if self._rank == 0:
            with writing(self._folder):
                self._stream = (self._folder / _CURVE).open("w", buffering=1)
        return self

    def add(self, point: Point) -> None:
        """Add a point, to be read at once."""
        if self._stream:
            with writing(self._folder):
                self._stream.write(json.dumps(dataclasses.asdict(point)) + "\n")

    def __exit__(self, *error: object) -> None:
        if self._stream:
            self._stream.close()


class CurveReader:
    """Reads along while a folder's curve grows."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _CURVE
        self._offset = 0
        self.points: list[Point] = []

    def new_points(self) -> list[Point]:
        """The points that were added since the last call."""
        if not self._file.exists():
            return []
        with self._file.open() as stream:
            stream.seek(self._offset)
            whole, newline, _ = stream.read().rpartition("\n")
        self._offset += len(whole) + len(newline)
        new = [Point(**json.loads(line)) for line in whole.splitlines()]
        self.points += new
        return new

    def remove(self) -> None:
        """Delete the file, once all is read."""
        self._file.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into one clear ArtifactError."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(
            f"{folder} could not be written: {error}. Free space or choose another --run-dir."
        ) from error
