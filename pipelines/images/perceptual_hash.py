"""An image -> its perceptual hash: a few numbers for each of its regions, in which candidates for the same picture lie
close together, also where one is cropped, framed, labelled, or a panel of the other.

A region's spectrum holds the lowest frequencies of its discrete cosine transform, each divided by what is usual for it
in pictures, at length 1. Mirroring and turning a picture only changes their signs and transposes them.
"""

import itertools
from enum import IntEnum
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE = 256  # pixels of a thumbnail's longer side
NUM_WAVES = 12  # frequencies along each side
POSES = tuple((turned, mirrored, flipped) for turned in (0, 1) for mirrored in (0, 1) for flipped in (0, 1))
_MAX_PANELS = 12
_MAX_DEPTH = 2  # panels of panels of the image
_MIN_PANEL = 0.14  # of the side that is cut
_SAMPLED = 32  # pixels of a side, of which a spectrum is computed
_WHOLE = 65535  # as a side is stored
_MIN_SIDE = 12  # pixels of a region in the thumbnail
_MIN_CONTRAST = 2.0  # standard deviation of grey values; what is below it cannot be told apart
_FLAT = 6.0  # standard deviation of the grey values of a line that belongs to a frame or gutter
_MAX_FRAME = 0.4  # of a side
_INSET, _CENTRE = 0.05, 0.16  # cut off at every side
_STEP, _STEPPED = 14, 0.6  # grey values, and share of a line, by which two panels that touch differ

Grey = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]  # top, bottom, left, right in pixels of the thumbnail


class Kind(IntEnum):
    """What part of its image a region is: all of it or all within its frame; a panel; the frame without its edges; the
    middle, which letters at the edges leave alone."""

    FRAME = 0
    PANEL = 1
    INSET = 2
    CENTRE = 3


REGION = np.dtype([("kind", "u1"), ("box", "<u2", (4,)), ("spectrum", "i1", (NUM_WAVES**2,))])
Regions = npt.NDArray[np.void]  # of the type REGION; `box`: top, bottom, left, right in 1/65535 of the image's sides


def perceptual_hash(image: Image.Image) -> bytes:
    """The image's regions, see `regions`; empty for a flat image, which looks like any other."""
    grey = thumbnail(image)
    height, width = grey.shape
    rows = []
    for kind, box in _regions(grey):
        spectrum = _spectrum(_part(grey, box))
        if spectrum is not None:
            sides = (box[0] / height, box[1] / height, box[2] / width, box[3] / width)
            rows.append((kind, tuple(round(side * _WHOLE) for side in sides), spectrum))
    return np.array(rows, REGION).tobytes()


def regions(hashes: bytes) -> Regions:
    """The regions of one perceptual hash or of several, joined."""
    return np.frombuffer(hashes, REGION)


def thumbnail(image: Image.Image) -> Grey:
    """The image in grey, with at most SIDE pixels a side, in its own proportions."""
    import cv2

    if (factor := max(image.size) // SIDE) > 1:
        image = image.reduce(factor)
    grey = np.asarray(image if image.mode == "L" else image.convert("L"))
    scale = SIDE / max(grey.shape)
    if scale < 1:
        size = [max(1, round(side * scale)) for side in grey.shape[::-1]]
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    return grey


def as_posed(grey: Grey, pose: int) -> Grey:
    """Pixels transposed, mirrored and flipped as POSES says."""
    turned, mirrored, flipped = POSES[pose]
    grey = grey.T if turned else grey
    grey = grey[:, ::-1] if mirrored else grey
    return np.ascontiguousarray(grey[::-1] if flipped else grey)


def _regions(grey: Grey) -> list[tuple[Kind, Box]]:
    whole = (0, grey.shape[0], 0, grey.shape[1])
    inner = _without_frame(grey, whole)
    found = [(Kind.FRAME, whole), *([(Kind.FRAME, inner)] if inner != whole else [])]
    panels = [box for box in _panels(grey, inner) if box != inner]
    found += [(Kind.PANEL, box) for box in panels[:_MAX_PANELS]]
    return [*found, (Kind.INSET, _shrunk(inner, _INSET)), (Kind.CENTRE, _shrunk(inner, _CENTRE))]


def _shrunk(box: Box, share: float) -> Box:
    top, bottom, left, right = box
    down, across = round((bottom - top) * share), round((right - left) * share)
    return top + down, bottom - down, left + across, right - across


def _part(grey: Grey, box: Box) -> Grey:
    top, bottom, left, right = box
    return grey[top:bottom, left:right]


def _without_frame(grey: Grey, box: Box) -> Box:
    """The box without flat lines at its edges, which are a frame or a background; a frame may have another inside."""
    for _ in range(3):
        part = _part(grey, box)
        if min(part.shape) < _MIN_SIDE or not _has_flat_edge(part):
            break
        edges = list(box)
        for axis in (0, 1):
            mean, deviation = (values.tolist() for values in _lines(part, axis))
            edges[2 * axis] += _flat_run(mean, deviation)
            edges[2 * axis + 1] -= _flat_run(mean[::-1], deviation[::-1])
        before, box = box, (edges[0], edges[1], edges[2], edges[3])
        if box == before:
            break
    return box


def _has_flat_edge(part: Grey) -> bool:
    import cv2

    edges = (part[0], part[-1], part[:, 0], part[:, -1])
    return any(cv2.meanStdDev(edge)[1].item() < _FLAT for edge in edges)


def _lines(part: Grey, axis: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Mean and standard deviation of each row (axis 0) or column (axis 1)."""
    import cv2

    values = part.astype(np.float32)
    mean, square = (cv2.reduce(each, 1 - axis, cv2.REDUCE_AVG).ravel() for each in (values, values * values))
    return np.asarray(mean, float), np.sqrt(np.maximum(square - mean * mean, 0)).astype(float)


def _flat_run(mean: list[float], deviation: list[float]) -> int:
    """How many lines at the beginning are flat and of one grey; 0 where these are more than a frame."""
    most = int(_MAX_FRAME * len(mean))
    for number in range(most):
        if deviation[number] >= _FLAT or abs(mean[number] - mean[0]) >= 2 * _FLAT:
            return number
    return 0


def _panels(grey: Grey, box: Box, depth: int = 0) -> list[Box]:
    """The panels that a box falls into by straight lines across all of it: gutters, or edges where panels touch. A
    panel that falls into others is one itself."""
    for axis in (0, 1) if depth <= _MAX_DEPTH else ():
        parts = _cut(grey, box, axis)
        if len(parts) > 1:
            inner = [_without_frame(grey, part) for part in parts]
            smaller = [
                each for part in inner for each in (_panels(grey, part, depth + 1) if depth < _MAX_DEPTH else [part])
            ]
            return list(dict.fromkeys([*inner, *smaller]))
    return [box]


def _cut(grey: Grey, box: Box, axis: int) -> list[Box]:
    """The parts of a box between its cuts along an axis: one where there is none."""
    part = _part(grey, box)
    length = part.shape[axis]
    least = max(_MIN_SIDE, round(_MIN_PANEL * length))
    if length < 2 * least:
        return [box]
    strength = _cut_strength(part if axis else part.T)
    strength[:least] = strength[length - least + 1 :] = 0
    cuts = [0, length]
    while (place := int(np.argmax(strength))) and strength[place] > _STEPPED:
        cuts.append(place)
        strength[max(0, place - least) : place + least] = 0
    cuts.sort()
    start = box[2 * axis]
    made = []
    for first, last in itertools.pairwise(cuts):
        edges = list(box)
        edges[2 * axis], edges[2 * axis + 1] = start + first, start + last
        made.append((edges[0], edges[1], edges[2], edges[3]))
    return made


def _cut_strength(part: Grey) -> npt.NDArray[np.float32]:
    """For each column, how much of it tells that two panels meet there: brighter or darker than what is on both sides,
    as a gutter is, or a step. A column that is only flat, which may be background, has the least that counts."""
    import cv2

    def share(differences: Any) -> npt.NDArray[np.float32]:
        """Of each column, how much of it differs."""
        _, differs = cv2.threshold(differences, _STEP, 1, cv2.THRESH_BINARY)
        return np.asarray(cv2.reduce(differs, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F).ravel() / len(part), np.float32)

    part = np.ascontiguousarray(part)
    _, deviation = _lines(part, 1)
    strength = np.where(deviation < _FLAT, _STEPPED + 0.01, 0).astype(np.float32)
    middle, before, after = part[:, 2:-2], part[:, :-4], part[:, 4:]
    for shift, seen in (
        (1, share(cv2.absdiff(part[:, 1:], part[:, :-1]))),
        (2, share(cv2.subtract(middle, cv2.max(before, after)))),
        (2, share(cv2.subtract(cv2.min(before, after), middle))),
    ):
        place = slice(shift, shift + len(seen))
        strength[place] = np.maximum(strength[place], seen)
    return strength


def _spectrum(part: Grey) -> npt.NDArray[np.int8] | None:
    """A region's spectrum, stored in bytes; None for one that is too small or too flat to have one."""
    import cv2

    if min(part.shape) < _MIN_SIDE:
        return None
    small = cv2.resize(part, (_SAMPLED, _SAMPLED), interpolation=cv2.INTER_AREA).astype(np.float32)
    waves = cv2.dct(small)
    waves[0, 0] = 0
    if cv2.norm(waves) < _MIN_CONTRAST * _SAMPLED:  # which is the standard deviation times the side
        return None
    low = waves[:NUM_WAVES, :NUM_WAVES] * _usual()
    return np.asarray(np.rint(low * (127 / (cv2.norm(low) + 1e-9))).astype(np.int8).ravel())


@cache
def _usual() -> npt.NDArray[np.float32]:
    """One over the usual strength of each frequency, which falls with it; 0 for the mean grey."""
    across = np.arange(NUM_WAVES, dtype=np.float32)
    return np.asarray(np.hypot(across[:, None], across[None, :]), np.float32)


def spectra(of: Regions) -> npt.NDArray[np.float32]:
    """The spectra of regions, at length 1. Returns (n, NUM_WAVES, NUM_WAVES): vertical, then horizontal frequencies."""
    values = of["spectrum"].astype(np.float32)
    values /= np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-9)
    return np.asarray(values.reshape(-1, NUM_WAVES, NUM_WAVES))
