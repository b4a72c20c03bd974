"""How fast images pass the sandbox, how many bytes they have when they are stored, and how they look then.

`python -m tests.benchmarks.bench_images [NUMBER]` (`make bench-images`): so many made-up JPEGs of 2 megapixels of each
kind, 1,000 unless said otherwise, and a folder of real ones where it is there. Prints a table last, and writes
build/bench/images.json.
"""

import io
import json
import os
import shutil
import sys
import time
import zipfile
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from scipy.ndimage import gaussian_filter

from pipelines.images import decoding
from pipelines.images.sandbox import ImageSandbox, Request
from pipelines.records import StoredImage

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench"
REAL = PROJECT.parent / "shared/real"
SIZE = (1600, 1250)
MAX_PIXELS = 1 << 20
NUM_IMAGES, NUM_COMPARED, REPETITIONS = 1_000, 40, 3
_TINTS = (("#200840", "#fff4ff"), ("#000020", "#ffe0a0"), ("#101000", "#b0ffd0"), ("#300000", "#ffffff"))


def picture(number: int, kind: str, sources: list[Path]) -> bytes:
    """A JPEG of two megapixels, grey or in colour: four of the sources beside one another, or clouds where there are
    none; lit from one side, with a sensor's noise."""
    rng = np.random.default_rng((number, kind == "colour"))
    quarter = (SIZE[0] // 2, SIZE[1] // 2)
    canvas = Image.new("RGB", SIZE)
    for place in range(4):
        if sources:
            with Image.open(sources[rng.integers(len(sources))]) as opened:
                part = opened.convert("L").resize(quarter, Image.Resampling.BICUBIC)
        else:
            part = _clouds(rng, quarter)
        tint = _TINTS[rng.integers(len(_TINTS))] if kind == "colour" else ("black", "white")
        canvas.paste(ImageOps.colorize(part, *tint), (place % 2 * quarter[0], place // 2 * quarter[1]))
    light = np.linspace(rng.uniform(0.7, 1), rng.uniform(0.7, 1), SIZE[0])[None, :, None]
    noise = rng.normal(0, 2, (SIZE[1], SIZE[0], 3 if kind == "colour" else 1))
    lit = np.clip(np.asarray(canvas) * light + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(lit).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    layers = np.zeros(size[::-1])
    for cells in (4, 16, 64, 256):
        drawn = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
        layers += np.asarray(drawn.resize(size, Image.Resampling.BICUBIC), float) / cells**0.5
    return ImageOps.autocontrast(Image.fromarray((layers / layers.max() * 255).astype(np.uint8)))


def generate(kind: str, number: int) -> list[Path]:
    """The files of a kind; what is there already is not made again."""
    sources = sorted(REAL.glob("*/images/*.jpg"))
    folder = FOLDER / f"images-{kind}-{'composed' if sources else 'drawn'}"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{each}.jpg" for each in range(number)]
    with Pool() as pool:
        pool.map(partial(_write, kind=kind, sources=sources), [path for path in paths if not path.exists()])
    return paths


def _write(path: Path, kind: str, sources: list[Path]) -> None:
    path.write_bytes(picture(int(path.stem), kind, sources))


def measure(kind: str, paths: list[Path]) -> dict[str, Any]:
    """Let the files pass, several times: the median of images a second, bytes before and after, and how they look."""
    requests = [Request(str(path), path.name, "", stretch_tiff=False) for path in paths]
    target = FOLDER / "stored"
    rates = []
    for _ in range(REPETITIONS):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        with ImageSandbox(max_pixels=MAX_PIXELS, workers=os.cpu_count() or 1) as sandbox:
            list(sandbox.check(requests[: 2 * (os.cpu_count() or 1)]))  # so that its children are started
            started = time.monotonic()
            stored = list(sandbox.store(requests, Path("stored.zip"), target))
            rates.append(len(requests) / (time.monotonic() - started))
    looks = _looks(stored, paths, target)
    resized = sum("resized" in each.changes for each in stored if isinstance(each, StoredImage))
    before, after = sum(path.stat().st_size for path in paths), (target / "stored.zip").stat().st_size
    shutil.rmtree(target)
    return {
        "images": kind,
        "number": len(paths),
        "resized": resized,
        "per_s": round(sorted(rates)[len(rates) // 2], 1),
        "rates": [round(rate, 1) for rate in rates],
        "mb_before": round(before / 1e6, 1),
        "mb_after": round(after / 1e6, 1),
        **looks,
    }


def _looks(stored: list[StoredImage | str], paths: list[Path], target: Path) -> dict[str, float]:
    """PSNR in dB and SSIM, mean and least, of some resized images against what Lanczos makes of the whole ones."""
    of = [(each, path) for each, path in zip(stored, paths, strict=True) if "resized" in getattr(each, "changes", ())]
    compared = []
    with zipfile.ZipFile(target / "stored.zip") as archive:
        for each, path in of[:: max(1, len(of) // NUM_COMPARED)]:
            shown = decoding.decode(archive.read(each.path.rpartition("/")[2]))
            with Image.open(path) as whole:
                wanted = whole.convert("RGB").resize(shown.size, Image.Resampling.LANCZOS)
            compared.append((psnr(wanted, shown), ssim(wanted, shown)))
    (psnr_mean, ssim_mean), (psnr_min, ssim_min) = np.mean(compared, axis=0), np.min(compared, axis=0)
    return {
        "psnr": round(float(psnr_mean), 1),
        "psnr_min": round(float(psnr_min), 1),
        "ssim": round(float(ssim_mean), 4),
        "ssim_min": round(float(ssim_min), 4),
    }


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal-to-noise ratio of two RGB images of the same size, in dB; 99 for equal ones."""
    error = np.mean((np.asarray(one, float) - np.asarray(other, float)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Structural similarity of two images of the same size (Wang et al., 2004), of their grey values."""
    x, y = (np.asarray(each.convert("L"), float) for each in (one, other))
    mean = partial(gaussian_filter, sigma=1.5, truncate=3.5)
    mean_x, mean_y = mean(x), mean(y)
    variance = mean(x * x) - mean_x**2 + mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    similar = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(similar / ((mean_x**2 + mean_y**2 + c1) * (variance + c2))))


def main(number: int) -> None:
    """Measure each kind and print the table."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    kinds = {f"{kind}, 2 Mpx": generate(kind, number) for kind in ("grey", "colour")}
    if real := sorted((REAL / "vqa_rad/images").glob("*.jpg")):
        kinds = {"radiographs": real} | kinds
    measured = [measure(kind, paths) for kind, paths in kinds.items()]
    (FOLDER / "images.json").write_text(json.dumps({"cores": os.cpu_count(), "kinds": measured}, indent=2) + "\n")
    columns = [name for name in measured[0] if name != "rates"]
    print("".join(f"{name:>14}" for name in columns))
    for each in measured:
        print("".join(f"{each[name]!s:>14}" for name in columns), each["rates"])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else NUM_IMAGES)
