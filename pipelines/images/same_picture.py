"""Two images and how one may lie on the other -> whether they show the same picture: they are laid on one another as
well as possible, and have to agree in their details, place by place.

Two radiographs of one view agree in what is large, and in details only where they are one radiograph.
"""

import dataclasses
import functools

import numpy as np
import numpy.typing as npt

from pipelines.images import image_bytes
from pipelines.images.decoding import decode_small
from pipelines.images.perceptual_hash import SIDE, Box, Grey, as_posed, thumbnail

_COARSE, _FINE = 96, 160  # pixels of a side at which images are laid on one another
_PLACES = 8  # along each side, at which details are compared
_MAX_STRETCH, _MAX_TURN = 1.3, 0.12  # of the one that is laid on the other: factor, and sine of the angle
_MIN_COVER = 0.6  # of the one that the other is laid on
_LIKELY = 0.6  # correlation after the coarse step, below which the fine one is saved
_MIN_WHOLE, _MIN_PLACES = 0.66, 0.78  # correlation of details: of all, and of the median place
_INSIDE, _MIN_SHARE = 0.99, 0.5  # of a pixel, and of a place, that lies on the other image
_NOISE = 3.0  # grey values; details weaker than it count less
_MIN_DETAIL = 0.05  # mean square of the details of a place that is compared
_KEPT_THUMBNAILS = 4096  # 64 KiB each at most

Grid = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True)
class Alignment:
    """How one image may lie on another: its box `right_box` on the other's `left_box`, after the left one was put in
    a pose. pose: index in POSES. Boxes: top, bottom, left, right in 1/65535 of the image's sides."""

    left: str
    right: str
    left_box: Box
    right_box: Box
    pose: int


def confirmed(alignments: list[Alignment]) -> list[bool]:
    """For each alignment whether the images, whose locations `left` and `right` are, show the same picture where they
    lie on one another. Runs in a child process. Raises UnreadableImageError for an image that cannot be read."""
    import cv2

    cv2.setNumThreads(1)  # the same order of additions every time, and no threads beside those of other children
    return [shows_same(_thumbnail(each.left), _thumbnail(each.right), each) for each in alignments]


def shows_same(left: Grey, right: Grey, alignment: Alignment) -> bool:
    """Whether two thumbnails show the same picture where they lie on one another."""
    left = as_posed(_cut_out(left, alignment.left_box), alignment.pose)
    right = _cut_out(right, alignment.right_box)
    if min(*left.shape, *right.shape) < _PLACES:
        return False
    coarse = _laid(_details(_square(left, _COARSE), 8.0), _details(_square(right, _COARSE), 8.0), _identity(), 40)
    if coarse is None or coarse[0] < _LIKELY:
        return False
    one, other = _square(left, _FINE), _square(right, _FINE)
    moved = coarse[1].copy()
    moved[:, 2] *= _FINE / _COARSE
    fine = _laid(_details(one, 5.0), _details(other, 5.0), moved, 20)
    return fine is not None and _is_plausible(fine[1]) and _agree(one, other, fine[1])


@functools.lru_cache(maxsize=_KEPT_THUMBNAILS)
def _thumbnail(location: str) -> Grey:
    return thumbnail(decode_small(image_bytes.read(location), SIDE))


def _cut_out(grey: Grey, box: Box) -> Grey:
    height, width = grey.shape
    top, bottom, left, right = (
        round(edge / 65535 * side) for edge, side in zip(box, (height, height, width, width), strict=True)
    )
    return grey[top:bottom, left:right]


def _square(grey: Grey, side: int) -> Grid:
    import cv2

    return np.asarray(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), np.float32)


def _identity() -> Grid:
    return np.eye(2, 3, dtype=np.float32)


def _details(grey: Grid, width: float) -> Grid:
    """What is finer than `width` pixels (and no noise), at about the same strength everywhere."""
    import cv2

    fine = cv2.GaussianBlur(grey, (0, 0), 1.0)
    fine = fine - cv2.GaussianBlur(fine, (0, 0), width)
    strength = np.sqrt(cv2.GaussianBlur(fine * fine, (0, 0), 1.5 * width))
    return np.asarray(fine / (strength + _NOISE), np.float32)


def _laid(left: Grid, right: Grid, start: Grid, steps: int) -> tuple[float, Grid] | None:
    """How well `right` lies on `left` at best, -1 to 1, and the affine transform that lays it there (Evangelidis and
    Psarakis, 2008); None where that is not found."""
    import cv2

    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, 1e-4)
    everywhere = np.ones(right.shape, np.uint8)
    try:
        correlation, transform = cv2.findTransformECC(left, right, start, cv2.MOTION_AFFINE, criteria, everywhere, 5)
    except cv2.error:  # nothing of one lies on the other any more, or one of them is flat
        return None
    return float(correlation), np.asarray(transform, np.float32)


def _is_plausible(transform: Grid) -> bool:
    linear = transform[:, :2].astype(float)
    stretches = np.linalg.svd(linear, compute_uv=False)
    turn = abs(linear[1, 0] - linear[0, 1]) / max(linear[0, 0] + linear[1, 1], 1e-6)
    return bool(stretches[0] < _MAX_STRETCH and stretches[1] > 1 / _MAX_STRETCH and turn < _MAX_TURN)


def _agree(left: Grid, right: Grid, transform: Grid) -> bool:
    """Whether details agree where `right` lies on `left`: all of them together, and at most places."""
    import cv2

    size, flags = left.shape[::-1], cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = np.asarray(cv2.warpAffine(right, transform, size, flags=flags), np.float32)
    covered = np.asarray(cv2.warpAffine(np.ones_like(right), transform, size, flags=flags), np.float32)
    covered = np.asarray(cv2.erode(covered, np.ones((3, 3)), borderValue=0) > _INSIDE, np.float32)
    if covered.mean() < _MIN_COVER:
        return False
    one, other = _details(left, 4.0), _details(laid, 4.0)

    def places(values: Grid) -> npt.NDArray[np.float64]:
        return np.asarray(cv2.resize(values * covered, (_PLACES, _PLACES), interpolation=cv2.INTER_AREA), float)

    share, both, ones, others = (places(each) for each in (np.ones_like(one), one * other, one * one, other * other))
    counted = (share > _MIN_SHARE) & (np.minimum(ones, others) > _MIN_DETAIL * share)
    if counted.sum() < _PLACES:
        return False
    whole = both.sum() / np.sqrt(ones.sum() * others.sum() + 1e-9)
    by_place = np.median((both / np.sqrt(ones * others + 1e-6))[counted])
    return bool(whole >= _MIN_WHOLE and by_place >= _MIN_PLACES)
