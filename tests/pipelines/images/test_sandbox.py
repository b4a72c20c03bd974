import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipelines.images.sandbox import ImageSandbox, Request
from tests.benchmarks import fuzz_images

PROJECT = Path(__file__).parents[3]
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
    with ImageSandbox(**{"max_pixels": MANY, "workers": 2} | settings) as opened:
        return list(opened.store(requests, Path(archive), folder))


def test_every_request_has_its_image_or_its_reason_in_order(folder):
    names = ["0.png", "bad.png", "1.png", "none.png", "2.png"]
    decoded = store(folder, [request(folder / name) for name in names])
    assert [each if isinstance(each, str) else each.name for each in decoded] == [
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


def crash(request, max_pixels):
    if request.name == "1.png":
        os.kill(os.getpid(), signal.SIGSEGV)
    return "decoded"


def hang(request, max_pixels):
    if request.name == "1.png":
        time.sleep(600)
    return "decoded"


def gorge(request, max_pixels):
    return "decoded" if request.name != "1.png" else bytes(8 << 30) and ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"), [(crash, "crashes_the_decoder"), (hang, "takes_too_long"), (gorge, "needs_too_much_memory")]
)
def test_an_image_that_kills_hangs_or_gorges_its_child_has_a_reason_and_its_neighbours_none(folder, fault, reason):
    with ImageSandbox(max_pixels=MANY, workers=2, timeout_s=3, decode=fault) as opened:
        decoded = list(opened.check([request(folder / f"{n}.png") for n in range(6)] * 3))
    assert decoded == ["decoded", reason, *["decoded"] * 4] * 3


def relapse(request, max_pixels):
    if request.name == "1.png":
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGSEGV)).start()
    else:
        time.sleep(0.3)
    return "decoded"


hoard = []


def keep(request, max_pixels):
    if request.name == "1.png":
        hoard.append(bytes(3 << 29))
    return "decoded" if request.name == "1.png" or bytes(1 << 30) else ""


@pytest.mark.parametrize("fault", [relapse, keep])
def test_no_image_is_blamed_for_what_another_left_behind(folder, fault):
    with ImageSandbox(max_pixels=MANY, workers=1, decode=fault) as opened:
        assert list(opened.check([request(folder / f"{n}.png") for n in (0, 1, 2, 3, 1, 4)])) == ["decoded"] * 6


@pytest.mark.slow
def test_crashes_are_told_apart_however_busy_the_parent_is(folder):
    done = threading.Event()
    busy = [threading.Thread(target=lambda: [sum(range(999)) for _ in iter(done.is_set, True)]) for _ in range(2)]
    for thread in busy:
        thread.start()
    try:
        with ImageSandbox(max_pixels=MANY, workers=2, decode=crash) as opened:
            decoded = list(opened.check([request(folder / f"{n % 2}.png") for n in range(20)]))
    finally:
        done.set()
    assert decoded == ["decoded", "crashes_the_decoder"] * 10


def blunder(request, max_pixels):
    raise KeyError("ours")


def test_a_fault_of_ours_is_raised_with_where_it_came_from(folder):
    with ImageSandbox(max_pixels=MANY, workers=1, decode=blunder) as opened, pytest.raises(KeyError) as error:
        list(opened.check([request(folder / "0.png")]))
    assert error.value.args == ("ours",)
    assert "in blunder" in error.value.__notes__[0]


def test_a_sandbox_left_in_the_middle_serves_the_next(folder):
    with ImageSandbox(max_pixels=MANY, workers=2) as opened:
        next(opened.check([request(folder / f"{n % 6}.png") for n in range(100)]))
        assert list(opened.check([request(folder / "bad.png"), request(folder / "0.png")])) == ["not_an_image", None]


def test_no_child_outlives_its_sandbox(folder):
    with ImageSandbox(max_pixels=MANY, workers=2) as opened:
        list(opened.check([request(folder / "0.png")] * 20))
        assert len(fuzz_images.of_forkserver()) == 2
    assert fuzz_images.of_forkserver() == []


SCRIPT = """
import itertools, sys, time
from pipelines.images import sandbox

def hang(request, max_pixels):
    print("at it", flush=True)
    time.sleep(600)

if __name__ == "__main__":
    decode = hang if sys.argv[2] == "hang" else sandbox.decode_request
    with sandbox.ImageSandbox(max_pixels=9999, workers=2, timeout_s=2, decode=decode) as opened:
        for _ in opened.check(sandbox.Request(sys.argv[1], "x", "", False) for _ in itertools.count()):
            print("at it", flush=True)
"""


def started(folder, script, looks) -> "subprocess.Popen[bytes]":
    (folder / "script.py").write_text(script)
    return subprocess.Popen(
        [sys.executable, str(folder / "script.py"), str(folder / "0.png"), looks],
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("looks", ["well", "hang"])
@pytest.mark.parametrize(
    "end", [lambda pid: os.killpg(pid, signal.SIGINT), lambda pid: os.kill(pid, signal.SIGKILL)], ids=["ctrl_c", "kill"]
)
def test_ctrl_c_or_the_death_of_its_owner_ends_a_sandbox_and_all_its_processes(folder, looks, end):
    with started(folder, SCRIPT, looks) as process:
        assert process.stdout.readline() == b"at it\n"
        below = psutil.Process(process.pid).children(recursive=True)
        assert len(below) >= 3
        end(process.pid)
        assert process.wait(timeout=30) != 0
        _, alive = psutil.wait_procs(below, timeout=30)
    assert alive == []


def test_children_that_cannot_start_are_a_fault_and_no_image_s(folder):
    with started(folder, SCRIPT.replace('if __name__ == "__main__"', "if True"), "well") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"a child of the sandbox ended at its start" in said
