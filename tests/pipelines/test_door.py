import io
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
import zipfile
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipelines import door
from pipelines.door import Door, Request
from pipelines.sources.reasons import MEANING
from tests.benchmarks import fuzz_images

PROJECT = Path(__file__).parents[2]
MANY = 1 << 20


def picture(seed: int, size: int = 64) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)


def request(path, crop="") -> Request:
    return Request(str(path), path.name, crop, stretch_tiff=False)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(6):
        picture(number).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_text("no image")
    return tmp_path


def store(folder, requests, archive="images/0.zip", **settings):
    with Door(**{"max_pixels": MANY, "workers": 2} | settings) as opened:
        return list(opened.store(requests, Path(archive), folder))


def test_every_request_has_its_image_or_its_reason_in_order(folder):
    names = ["0.png", "bad.png", "1.png", "none.png", "2.png"]
    looked = store(folder, [request(folder / name) for name in names])
    assert [each if isinstance(each, str) else each.name for each in looked] == [
        "0.png",
        "not_an_image",
        "1.png",
        "missing_image",
        "2.png",
    ]


def test_an_image_is_stored_once_under_its_digest_and_the_same_requests_write_the_same_bytes(folder):
    requests = [request(folder / name) for name in ("0.png", "1.png", "0.png")]
    first, _, again = store(folder, requests)
    store(folder, requests, archive="images/1.zip")
    assert first.path == again.path == f"images/0.zip/{first.digest[:32]}.png"
    assert (folder / "images/0.zip").read_bytes() == (folder / "images/1.zip").read_bytes()
    with zipfile.ZipFile(folder / "images/0.zip") as archive:
        assert len(archive.namelist()) == 2
        assert archive.read(f"{first.digest[:32]}.png") == (folder / "0.png").read_bytes()


def test_a_file_and_a_zip_s_member_give_the_same_facts(folder):
    with zipfile.ZipFile(folder / "source.zip", "w") as archive:
        archive.write(folder / "0.png", "x/0.png")
    by_file, by_member = store(folder, [request(folder / "0.png"), request(folder / "source.zip/x/0.png")])
    assert by_file == by_member


def test_pixels_have_one_digest_in_every_format_and_each_crop_its_own(folder):
    picture(0).save(folder / "0.bmp")
    png, bmp, part = store(
        folder, [request(folder / "0.png"), request(folder / "0.bmp"), request(folder / "0.png", "0,0,9,9")]
    )
    assert png.pixel_digest == bmp.pixel_digest != part.pixel_digest
    assert png.source_digest == part.source_digest != bmp.source_digest
    assert (part.width, part.height, part.changes) == (9, 9, ("cropped",))


def test_a_perceptual_hash_outlives_another_quality_and_size_and_tells_images_apart():
    def bits(one, two):
        return (int(door.perceptual_hash(one), 16) ^ int(door.perceptual_hash(two), 16)).bit_count()

    for seed in range(10):
        image = picture(seed, 200)
        assert bits(image, image.resize((90, 90))) <= 3
        assert bits(image, picture(seed + 100, 200)) > 12


def test_a_flat_image_has_no_perceptual_hash():
    assert door.perceptual_hash(Image.new("RGB", (50, 50), "grey")) == ""


def crash(request, max_pixels):
    if request.name == "1.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    return "looked"


def hang(request, max_pixels):
    if request.name == "1.png":
        time.sleep(600)
    return "looked"


def gorge(request, max_pixels):
    return "looked" if request.name != "1.png" else bytes(8 << 30) and ""


@pytest.mark.parametrize(
    ("fault", "reason"), [(crash, "crashes_the_decoder"), (hang, "takes_too_long"), (gorge, "needs_too_much_memory")]
)
def test_an_image_that_kills_hangs_or_gorges_its_child_has_a_reason_and_its_neighbours_none(
    folder, monkeypatch, fault, reason
):
    monkeypatch.setattr(door, "_look", fault)
    with Door(max_pixels=MANY, workers=2, timeout_s=3) as opened:
        looked = list(opened.check([request(folder / f"{n}.png") for n in range(6)] * 3))
    assert looked == ["looked", reason, *["looked"] * 4] * 3


def test_no_child_outlives_its_door(folder):
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with Door(max_pixels=MANY, workers=2) as opened:
        list(opened.check([request(folder / "0.png")] * 20))
        during = {child.pid for child in psutil.Process().children(recursive=True)}
    lasting = {multiprocessing.forkserver._forkserver._forkserver_pid, *before}
    left = {child.pid for child in psutil.Process().children(recursive=True)} - lasting
    names = [psutil.Process(pid).cmdline() for pid in left if psutil.pid_exists(pid)]
    assert len(during) > len(before)
    assert [name for name in names if "resource_tracker" not in " ".join(name)] == []


def test_ctrl_c_ends_a_door_and_its_children(folder):
    script = (
        "import sys, itertools; from pipelines.door import Door, Request\n"
        "with Door(max_pixels=9999, workers=2) as opened:\n"
        "    for _ in opened.check(Request(sys.argv[1], 'x', '', False) for _ in itertools.count()):\n"
        "        print('looking', flush=True)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder / "0.png")],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        assert process.stdout.readline() == b"looking\n"
        children = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=30) != 0
    _, alive = psutil.wait_procs(children, timeout=10)
    assert alive == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP"])
def test_mutated_files_are_images_or_have_a_known_reason(tmp_path, kind):
    with Door(max_pixels=MANY, workers=2) as opened:
        outcomes = fuzz_images.fuzz(kind, 400, opened, tmp_path)
    assert outcomes.total() == 400
    assert fuzz_images.faults(outcomes) == []
    assert outcomes["image"] > 20
    assert outcomes["damaged_image"] > 20


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A sound PNG with these chunks behind its header."""
    buffer = io.BytesIO()
    picture(0).save(buffer, format="PNG")
    whole = buffer.getvalue()
    written = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return whole[:33] + b"".join(written) + whole[33:]


def many_scans() -> bytes:
    """A progressive JPEG of 4,000 x 4,000 pixels whose last scan is repeated 2,000 times."""
    buffer = io.BytesIO()
    Image.new("L", (4000, 4000), 128).save(buffer, format="JPEG", progressive=True)
    whole = buffer.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * 2000 + whole[-2:]


def cyclic_tiff() -> bytes:
    """A TIFF whose first directory names itself as the next."""
    buffer = io.BytesIO()
    picture(0).save(buffer, format="TIFF")
    whole = bytearray(buffer.getvalue())
    first = int.from_bytes(whole[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little")
    whole[end : end + 4] = whole[4:8]
    return bytes(whole)


def many_frames() -> bytes:
    frames = [Image.new("L", (8, 8), n % 256) for n in range(5000)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format="GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def bomb_in_pixels() -> bytes:
    """A PNG of 8,000 x 8,000 pixels, the most that is taken, of 80 kB."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(buffer, format="PNG")
    return buffer.getvalue()


HOSTILE = {
    "text_bomb": lambda: png_with((b"zTXt", b"x\0\0" + zlib.compress(bytes(300 << 20)))),
    "profile_bomb": lambda: png_with((b"iCCP", b"x\0\0" + zlib.compress(bytes(300 << 20)))),
    "many_chunks": lambda: png_with(*[(b"tEXt", b"a\0b")] * 200_000),
    "many_scans": many_scans,
    "cyclic_tiff": cyclic_tiff,
    "many_frames": many_frames,
    "bomb_in_pixels": bomb_in_pixels,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_made_to_be_slow_or_large_ends_in_bounded_time_and_memory(tmp_path, name):
    (tmp_path / "x").write_bytes(HOSTILE[name]())
    with Door(max_pixels=MANY, workers=1, timeout_s=4) as opened:
        started = time.monotonic()
        (reason,) = opened.check([request(tmp_path / "x")])
        assert time.monotonic() - started < 15
    assert reason is None or reason in MEANING
