"""How often the intervals of an examination hold the truth, against those that others print.

`python -m tests.benchmarks.bench_coverage [EXAMINATIONS]` (`make bench-coverage`): 1,000 simulated examinations for
each number of clusters, their sizes, intracluster correlation (ICC) and accuracy. Prints the share of 95 % intervals
that hold the truth, of an accuracy and of a paired difference, and of tests that stay silent where two models are
equally good; writes build/bench/coverage.json.
"""

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipelines.examination.measures.clusters import Clusters
from pipelines.examination.measures.comparisons import clustered_mcnemar, mcnemar_midp
from pipelines.examination.measures.intervals import difference_interval, proportion_interval

FOLDER = Path(__file__).parents[2] / "build/bench"
NUM_EXAMINATIONS = 1000
SIZES = ("figures", "equal", "skewed")
NUM_CLUSTERS = (30, 100, 600, 1440)
ICCS = (0.0, 0.2, 0.6)
SHARES = (0.25, 0.65, 0.8)
EDGES = (("equal", 10), ("skewed", 10), ("equal", 20), ("skewed", 20), ("heavy", 100), ("heavy", 600))
NEAR_ONE = 0.95
NO_DIFFERENCE = 0.65
COPIED = 0.6  # of the second model's answers, so that about a quarter are discordant
AT_ONCE = 250
NUM_RESAMPLES = 500
BAND = (0.93, 0.97)
ALPHA = 0.05


@dataclasses.dataclass(frozen=True)
class Cell:
    """What is simulated. sizes: how many questions a cluster has; share: right answers in truth."""

    sizes: str
    num_clusters: int
    icc: float
    share: float

    @property
    def seed(self) -> list[int]:
        """Its own, and the same each time."""
        return [self.num_clusters, round(self.icc * 100), round(self.share * 100), len(self.sizes)]


def main(num_examinations: int) -> None:
    """Simulate and print."""
    started = time.monotonic()
    usual = [Cell(*each) for each in itertools.product(SIZES, NUM_CLUSTERS, ICCS, SHARES)]
    near_one = [Cell(sizes, number, icc, NEAR_ONE) for sizes in SIZES for number in NUM_CLUSTERS for icc in ICCS]
    few = [Cell(sizes, number, icc, 0.65) for sizes, number in EDGES for icc in ICCS]
    tables = {
        "30 to 1,440 clusters": (usual, accuracy_coverage),
        f"{NEAR_ONE:.0%} right": (near_one, accuracy_coverage),
        "few clusters, or a few that hold most questions": (few, accuracy_coverage),
        "paired difference": (usual, difference_coverage),
        "no difference found where there is none": ([c for c in usual if c.share == NO_DIFFERENCE], silence),
    }
    figures = {}
    for title, (cells, coverage) in tables.items():
        print(f"\n{title}", flush=True)
        rows = [(cell, coverage(cell, num_examinations)) for cell in cells]
        figures[title] = [dataclasses.asdict(cell) | row for cell, row in rows]
        for line in lines(rows):
            print(line, flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "coverage.json").write_text(json.dumps(figures, indent=2))
    print(f"\n{num_examinations} examinations a row, {time.monotonic() - started:.0f} s")


def lines(rows: list[tuple[Cell, dict[str, float]]]) -> Iterator[str]:
    """A table, and how many of its rows are within the band."""
    names = list(rows[0][1])
    yield f"{'sizes':<9}{'clusters':>8}{'ICC':>6}{'share':>7}" + "".join(f"{name:>20}" for name in names)
    for cell, row in rows:
        about = f"{cell.sizes:<9}{cell.num_clusters:>8}{cell.icc:>6}{cell.share:>7}"
        yield about + "".join(f"{row[name]:>20.3f}" for name in names)
    within = {name: sum(BAND[0] <= row[name] <= BAND[1] for _, row in rows) for name in names}
    yield f"{f'within {BAND[0]:.0%} to {BAND[1]:.0%}':<30}" + "".join(
        f"{within[n]:>13} of {len(rows):>3}" for n in names
    )


def accuracy_coverage(cell: Cell, num_examinations: int) -> dict[str, float]:
    """The share of intervals that hold the truth, by kind."""
    rng = np.random.default_rng(cell.seed)
    codes, clusters = clustered(cell, rng)
    held: dict[str, list[NDArray[np.bool_]]] = {}
    for size in batches(num_examinations):
        answers = simulated(cell, codes, size, rng)
        ours = proportion_interval(answers, clusters)
        intervals = {"ours": (ours.low, ours.high)} | others(answers, clusters, rng)
        for name, (low, high) in intervals.items():
            held.setdefault(name, []).append((low <= cell.share) & (cell.share <= high))
    return {name: round(float(np.concatenate(each).mean()), 4) for name, each in held.items()}


def difference_coverage(cell: Cell, num_examinations: int) -> dict[str, float]:
    """The same for the difference of two models, of which the second gives many of the first one's answers."""
    rng = np.random.default_rng(cell.seed)
    codes, clusters = clustered(cell, rng)
    better = dataclasses.replace(cell, share=min(0.98, cell.share + 0.1))
    truth = (1 - COPIED) * (better.share - cell.share)
    held: dict[str, list[NDArray[np.bool_]]] = {}
    for size in batches(num_examinations):
        first, own = (simulated(each, codes, size, rng) for each in (cell, better))
        values = np.where(rng.random(first.shape) < COPIED, first, own).astype(float) - first
        ours = difference_interval(values, clusters)
        mean, error = values.mean(axis=-1), values.std(axis=-1) / np.sqrt(values.shape[-1])
        plain = (mean - 1.96 * error, mean + 1.96 * error)
        for name, (low, high) in {"ours": (ours.low, ours.high), "not clustered": plain}.items():
            held.setdefault(name, []).append((low <= truth) & (truth <= high))
    return {name: round(float(np.concatenate(each).mean()), 4) for name, each in held.items()}


def silence(cell: Cell, num_examinations: int) -> dict[str, float]:
    """How often two models that are equally good in truth are not told apart by each test, at .05."""
    rng = np.random.default_rng(cell.seed)
    codes, clusters = clustered(cell, rng)
    found: dict[str, list[bool]] = {"clustered McNemar": [], "McNemar mid-p": []}
    for size in batches(num_examinations):
        first, own = (simulated(cell, codes, size, rng) for _ in range(2))
        for each in np.where(rng.random(first.shape) < COPIED, first, own).astype(np.int8) - first:
            found["clustered McNemar"].append(clustered_mcnemar(each, clusters)[1] >= ALPHA)
            found["McNemar mid-p"].append(mcnemar_midp(int((each < 0).sum()), int((each > 0).sum())) >= ALPHA)
    return {name: round(float(np.mean(each)), 4) for name, each in found.items()}


def batches(num_examinations: int) -> Iterator[int]:
    """How many are simulated at once, so that memory stays small."""
    for start in range(0, num_examinations, AT_ONCE):
        yield min(AT_ONCE, num_examinations - start)


def clustered(cell: Cell, rng: np.random.Generator) -> tuple[NDArray[np.int64], Clusters]:
    """The cluster of each question."""
    number = cell.num_clusters
    sizes = {
        "figures": lambda: rng.geometric(1440 / 2000, number),  # 2,000 questions about 1,440 figures
        "equal": lambda: np.full(number, 4),
        "skewed": lambda: np.maximum(1, np.round(rng.lognormal(0.8, 1.0, number))).astype(int),
        "heavy": lambda: np.maximum(1, np.round(rng.lognormal(0.3, 1.5, number))).astype(int),
    }[cell.sizes]()
    codes = np.repeat(np.arange(number), sizes)
    return codes, Clusters.of(codes)


def simulated(
    cell: Cell, codes: NDArray[np.int64], num_examinations: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Right answers, (examinations, questions): each cluster has its own share, from a beta distribution."""
    share: NDArray[np.float64] | float = cell.share
    if cell.icc:
        own = rng.beta(*(s * (1 / cell.icc - 1) for s in (share, 1 - share)), (num_examinations, cell.num_clusters))
        share = own[:, codes]
    return np.asarray(rng.random((num_examinations, len(codes))) < share)


def others(
    answers: NDArray[np.bool_], clusters: Clusters, rng: np.random.Generator
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Wilson's interval of independent questions, the percentiles of a cluster bootstrap, and CR2 with Student's t."""
    from scipy.stats import t
    from statsmodels.stats.proportion import proportion_confint

    total, sums = answers.shape[-1], clusters.sum(answers)
    mean = answers.mean(axis=-1)
    number = len(clusters.sizes)
    drawn = rng.multinomial(number, np.full(number, 1 / number), NUM_RESAMPLES).astype(float)
    resampled = (sums @ drawn.T) / (drawn @ clusters.sizes)
    residuals = sums - mean[:, None] * clusters.sizes
    error = np.sqrt((residuals**2 / (1 - clusters.sizes / total)).sum(axis=-1)) / total
    half = t.ppf(0.975, number - 1) * error
    return {
        "Wilson": proportion_confint(answers.sum(axis=-1), total, method="wilson"),
        "cluster bootstrap": tuple(np.quantile(resampled, (0.025, 0.975), axis=-1)),
        "CR2 and t": (mean - half, mean + half),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else NUM_EXAMINATIONS)
