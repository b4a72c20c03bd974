"""Perceptual hashes find a picture again after it was changed, and the pixels confirm it; other pictures are not."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.images.perceptual_hash import SIDE, perceptual_hash, regions, thumbnail
from pipelines.images.same_picture import shows_same
from pipelines.questions.look_alikes import aligned
from pipelines.questions.picture_search import Searchable, search
from tests.benchmarks.transformations import KINDS, transformed

REAL = Path(__file__).parents[4] / "shared/real"
NUM = 6


def picture(seed: int, size=(300, 240)) -> Image.Image:
    """Random blots of several sizes."""
    rng = np.random.default_rng(seed)
    layers = np.zeros(size[::-1])
    for cells, weight in ((4, 1.0), (9, 0.8), (24, 0.6)):
        noise = Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        layers += weight * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    scaled = 255 * (layers - layers.min()) / (np.ptp(layers) or 1)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def found(evaluation: list[Image.Image], training: list[Image.Image]) -> set[tuple[int, int]]:
    """Indices (training, evaluation) of images that look the same, confirmed."""
    images = [*evaluation, *training]
    hashes = [perceptual_hash(image) for image in images]
    places = np.arange(len(images))
    split = len(evaluation)
    candidates = search(Searchable(hashes, places[split:]), Searchable(hashes, places[:split]))
    small = [thumbnail(image) for image in images]
    names = [str(place) for place in places]
    return {
        (int(each["left"]) - split, int(each["right"]))
        for each in candidates
        if shows_same(small[each["left"]], small[each["right"]], aligned(each, hashes, names))
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_picture_is_found_again_and_no_other(kind):
    originals = [picture(seed) for seed in range(NUM)]
    others = [picture(seed + 100) for seed in range(NUM)]
    changed = [transformed(kind, image, others, seed) for seed, image in enumerate(originals)]
    pairs = found(originals, changed)
    assert all(one == other for one, other in pairs)
    assert len(pairs) >= NUM - 1


def test_different_pictures_are_not_the_same():
    assert found([picture(seed) for seed in range(20)], [picture(seed) for seed in range(20, 40)]) == set()


@pytest.mark.parametrize("folder", ["nffa_sem", "vqa_rad"])
def test_real_images_of_one_view_are_not_the_same(folder):
    paths = sorted((REAL / folder / "images").glob("*"))[:40]
    if not paths:
        pytest.skip(f"{REAL / folder} is not there")
    images = [Image.open(path).convert("RGB") for path in paths]
    assert found(images[:20], images[20:]) == set()


def test_a_flat_image_has_no_perceptual_hash_and_a_tiny_one_none_either():
    assert perceptual_hash(Image.new("RGB", (50, 50), "grey")) == b""
    assert perceptual_hash(picture(0, (9, 400))) == b""


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (13, 2600), (4000, 20), (257, 255)])
def test_a_thumbnail_keeps_proportions_of_any_image(size):
    grey = thumbnail(picture(1, size))
    assert max(grey.shape) <= max(SIDE, 1)
    assert min(grey.shape) >= 1
    assert len(regions(perceptual_hash(picture(1, size)))) <= 16


def test_the_hash_is_of_the_pixels_and_not_of_their_mode():
    grey = picture(3).convert("L")
    assert perceptual_hash(grey) == perceptual_hash(grey.convert("RGB"))
    buffer = io.BytesIO()
    grey.save(buffer, format="PNG")
    assert perceptual_hash(Image.open(buffer)) == perceptual_hash(grey)
