"""Who shows an image gets the bytes that were sealed, from shards in any order, or is told that they are not there."""

import hashlib
import io
import os
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra import manifest, recipes, runner
from infra.digests import digest_file
from infra.errors import ArtifactError
from pipelines.images import decoding
from pipelines.images import sealed as sealed_images
from pipelines.images.decoding import UnreadableImageError
from pipelines.images.sealed import CHANGED, SealedImage
from tests.pipelines.fixtures import put_images, put_other_bytes, put_questions, question, sealed

PATH = "images/0.zip/a.png"


def noise(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 30, 3), dtype=np.uint8))


@pytest.fixture
def image(tmp_path) -> SealedImage:
    put_images(tmp_path, {PATH: noise(), "images/0.zip/b.png": noise(1)})
    return sealed(tmp_path, PATH)[0]


def test_an_image_is_read_as_it_was_sealed_and_decoded_to_its_pixels(image):
    assert image.read() == decoding.png(noise())
    assert image.decode().tobytes() == noise().tobytes()


def test_the_images_of_a_record_come_in_its_order_with_the_digests_that_it_names(tmp_path):
    asked = question(images=("images/0.zip/b.png", PATH), image_digests=("b", "a"))
    assert [(image.path, image.digest) for image in sealed_images.of(tmp_path, asked)] == [
        (tmp_path / "images/0.zip/b.png", "b"),
        (tmp_path / PATH, "a"),
    ]


def test_another_image_in_its_place_is_found_out_even_of_the_same_pixels(tmp_path, image):
    put_other_bytes(tmp_path, PATH, decoding.png(noise(2)))
    with pytest.raises(UnreadableImageError, match=CHANGED):
        image.read()
    same = io.BytesIO()
    noise().save(same, "PNG", compress_level=9)
    put_other_bytes(tmp_path, PATH, same.getvalue())
    with pytest.raises(UnreadableImageError, match=CHANGED):
        image.decode()


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_a_bit_that_a_disk_has_flipped_anywhere_in_a_shard_never_shows_another_image(tmp_path, place):
    put_images(tmp_path, {PATH: noise().crop((0, 0, 4, 4))})
    (image,), shard = sealed(tmp_path, PATH), tmp_path / "images/0.zip"
    content, whole = bytearray(shard.read_bytes()), image.read()
    content[place % len(content)] ^= 0x10
    shard.write_bytes(content)
    try:
        assert image.read() == whole
    except UnreadableImageError as error:
        assert str(error) in ("missing_image", CHANGED)


@pytest.mark.parametrize("what", ["shard", "member", "folder", "pipe"])
def test_an_image_that_is_gone_is_missing(tmp_path, image, what):
    if what == "member":
        put_other_bytes(tmp_path, PATH, None)
    else:
        image.path.parent.unlink()
    if what == "folder":
        image.path.parent.mkdir()
    if what == "pipe":
        os.mkfifo(image.path.parent)
    with pytest.raises(UnreadableImageError, match="missing_image"):
        image.read()


@pytest.mark.parametrize("content", [b"", b"PK", b"no zip" * 100])
def test_a_shard_that_is_none_any_more_is_a_changed_image(image, content):
    image.path.parent.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=CHANGED):
        image.read()


def test_a_shard_that_took_another_s_place_is_read_anew(tmp_path, image):
    assert image.read()
    put_other_bytes(tmp_path, "images/0.zip/0.png", b"before it")  # everything lies elsewhere now
    assert image.read() == decoding.png(noise())


def test_hundreds_of_shards_in_any_order_are_listed_once_each_and_none_is_kept_open(tmp_path, monkeypatch):
    num_shards, listed = 150, []
    (tmp_path / "images").mkdir()
    shown = []
    for number in range(num_shards):
        with zipfile.ZipFile(tmp_path / f"images/{number}.zip", "w") as shard:
            for place in range(4):
                data = f"{number} {place}".encode()
                shard.writestr(f"{place}.png", data)
                digest = hashlib.sha256(data).hexdigest()
                shown.append((SealedImage(tmp_path / f"images/{number}.zip/{place}.png", digest), data))
    real = zipfile.ZipFile
    monkeypatch.setattr(sealed_images.zipfile, "ZipFile", lambda path: listed.append(path) or real(path))
    opened = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        random.Random(0).shuffle(shown)
        assert all(image.read() == data for image, data in shown)
    assert sorted(listed) == sorted({image.path.parent for image, _ in shown})
    assert len(list(Path("/proc/self/fd").iterdir())) == opened


def test_no_stage_digests_all_images_before_it_starts_and_every_one_is_told_of_a_shard_that_was_written_to(
    tmp_path, image, monkeypatch
):
    configs = recipes.resolve("pocket", ["pipelines", "train", "serve"], [])
    readers = [each for each in configs.values() if each is not None and "questions" in each.inputs()]
    assert {each.stage for each in readers} == {"teach", "verify", "compose", "fit", "deploy", "examination", "report"}
    put_questions(tmp_path, [question(images=(PATH,))], {PATH: noise()})
    digested = []
    monkeypatch.setattr(manifest, "digest_file", lambda path: digested.append(path.name) or digest_file(path))
    for config in readers:
        monkeypatch.setattr(type(config), "inputs", lambda _: ("questions",))
        digested.clear()
        runner.sealed_inputs(config, tmp_path)
        assert sorted(digested) == ["images.parquet", "questions.parquet"]
    put_other_bytes(tmp_path / "questions", PATH, decoding.png(noise(2)))
    for config in readers:
        with pytest.raises(ArtifactError, match=r"0\.zip"):
            runner.sealed_inputs(config, tmp_path)
