"""How much of what was copied is found, how much that was not, and what that costs.

`python -m tests.benchmarks.bench_contamination [IMAGES]` (`make bench-contamination`): every image of the real folders,
or at most so many, or made-up ones where there are none, examines; its transformed version is what would be trained on.
Prints a table last, and writes build/bench/contamination.json. Images that look the same to a person count as different
here: look at the pairs that it names before believing that they are.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.images.perceptual_hash import REGION, perceptual_hash, thumbnail
from pipelines.images.same_picture import shows_same
from pipelines.questions.look_alikes import aligned
from pipelines.questions.picture_search import Searchable, search
from tests.benchmarks.transformations import KINDS, transformed

PROJECT = Path(__file__).parents[2]
FOLDER = PROJECT / "build/bench"
REAL = PROJECT.parent / "shared/real"
LARGEST = 1024  # pixels of a side
SCALES = ((2_000, 2_000), (8_000, 2_000), (8_000, 8_000))  # training and evaluation images
REGIONS = (0, 0, 1, 1, 2, 3)  # kinds, of a generated image


def images(most: int) -> dict[str, Image.Image]:
    """The images, by name."""
    paths = sorted(REAL.glob("*/images/*"))
    paths = [paths[place] for place in np.linspace(0, len(paths) - 1, min(most, len(paths))).astype(int)]
    read = {f"{path.parts[-3]}/{path.name}": Image.open(path).convert("RGB") for path in paths}
    for image in read.values():
        image.thumbnail((LARGEST, LARGEST))
    return read or {str(seed): _drawn(seed) for seed in range(min(most, 40))}


def _drawn(seed: int) -> Image.Image:
    noise = np.random.default_rng(seed).random((12, 12)) * 255
    return Image.fromarray(noise.astype(np.uint8)).resize((400, 300), Image.Resampling.BICUBIC).convert("RGB")


def found(left: list[Image.Image], right: list[Image.Image]) -> tuple[int, set[tuple[int, int]]]:
    """Number of candidates, and the confirmed pairs (index in left, index in right)."""
    both = [*left, *right]
    hashes, small = [perceptual_hash(image) for image in both], [thumbnail(image) for image in both]
    places, names = np.arange(len(both)), [""] * len(both)
    candidates = search(Searchable(hashes, places[: len(left)]), Searchable(hashes, places[len(left) :]))
    confirmed = {
        (int(each["left"]), int(each["right"]) - len(left))
        for each in candidates
        if shows_same(small[each["left"]], small[each["right"]], aligned(each, hashes, names))
    }
    return len(candidates), confirmed


def caught(originals: list[Image.Image]) -> dict[str, tuple[int, int]]:
    """For each kind of change, how many of the images are found again, and how many others are taken for them."""
    table = {}
    for kind in KINDS:
        changed = [transformed(kind, image, originals, seed) for seed, image in enumerate(originals)]
        _, pairs = found(changed, originals)
        right = sum(one == other for one, other in pairs)
        # A compound figure holds other images of the set too, which are no false matches.
        wrong = 0 if kind.startswith("panel") else len(pairs) - right
        table[kind] = (right, wrong)
        print(f"{kind:24} {right:5} / {len(originals)}   others {wrong}", flush=True)
    return table


def costs(originals: list[Image.Image]) -> dict[str, float]:
    """CPU ms of a perceptual hash, and of its thumbnail alone, for an image."""
    made = {}
    for name, work in (("hash", perceptual_hash), ("thumbnail", thumbnail)):
        start = time.process_time()
        for image in originals:
            work(image)
        made[name] = round((time.process_time() - start) / len(originals) * 1e3, 2)
    return made


def scaling() -> dict[str, float]:
    """CPU seconds of the search among generated hashes of images that share nothing."""
    rng = np.random.default_rng(0)
    made = np.zeros((max(map(sum, SCALES)), len(REGIONS)), REGION)
    made["kind"] = REGIONS
    made["spectrum"] = rng.normal(0, 12, made["spectrum"].shape).clip(-127, 127)
    hashes = [each.tobytes() for each in made]
    taken = {}
    for training, evaluation in SCALES:
        start = time.process_time()
        places = np.arange(training + evaluation)
        search(Searchable(hashes, places[:training]), Searchable(hashes, places[training:]))
        taken[f"{training} x {evaluation}"] = round(time.process_time() - start, 1)
        print(f"search {training} x {evaluation}: {taken[f'{training} x {evaluation}']} CPU s", flush=True)
    return taken


def main() -> None:
    """Measure and print."""
    named = images(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    names, originals = list(named), list(named.values())
    cost, seconds = costs(originals), scaling()
    candidates, pairs = found(originals, originals)
    false = sorted({(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]})
    num_pairs = len(originals) * (len(originals) - 1) // 2
    report = {
        "caught": {kind: [right, len(originals), wrong] for kind, (right, wrong) in caught(originals).items()},
        "different pairs": num_pairs,
        "candidates": candidates,
        "confirmed": [[names[one], names[other]] for one, other in false],
        "cpu_ms_per_image": cost,
        "search_cpu_s": seconds,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "contamination.json").write_text(json.dumps(report, indent=1))
    print("\n| transformation | caught | of | other images |\n|---|---:|---:|---:|")
    for kind, (right, total, wrong) in report["caught"].items():
        print(f"| {kind} | {right} | {total} | {wrong} |")
    print(f"| different images, taken for the same | {len(false)} | {num_pairs} | |")
    print(f"confirmed though different: {report['confirmed']}")
    print(f"CPU ms an image: {cost}; search, CPU s: {seconds}")


if __name__ == "__main__":
    main()
