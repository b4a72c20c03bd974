"""What comparing benchmarks share: the machine, runs in alternating order, ratios with their range."""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

Run = dict[str, Any]


def machine() -> dict[str, Any]:
    """The processor, the CPUs that this process and its children may use, and the load average."""
    about = dict(
        (part.strip() for part in line.partition(":")[::2])
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if ":" in line
    )
    siblings, cores = int(about.get("siblings", 1)), int(about.get("cpu cores", 1))
    return {
        "processor": about.get("model name", "unknown"),
        "avx512": "avx512f" in about.get("flags", "").split(),
        "threads_per_core": max(1, siblings // max(1, cores)),
        "cpus": sorted(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
    }


def describe(about: Mapping[str, Any]) -> str:
    """The machine in one line."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


def in_turns(
    systems: Mapping[str, Callable[[], Run]], repetitions: int, show: Callable[[str, Run], None]
) -> dict[str, list[Run]]:
    """The runs of each system. Every repetition runs all of them, every second one in reverse order, so that a machine
    that gets slower or faster over time favours none."""
    runs: dict[str, list[Run]] = {name: [] for name in systems}
    for number in range(repetitions):
        for name in systems if number % 2 == 0 else reversed(list(systems)):
            load = os.getloadavg()[0]
            runs[name].append({**systems[name](), "load_before": round(load, 2)})
            show(f"{number + 1}/{repetitions} {name}", runs[name][-1])
    return runs


def median(runs: Sequence[Run], figure: str) -> float:
    """The median of one figure over all runs."""
    return float(statistics.median(run[figure] for run in runs))


def spread(values: Sequence[float]) -> str:
    """Their range, as text."""
    return f"{min(values):.4g} to {max(values):.4g}"


def ratios(ours: Sequence[Run], theirs: Sequence[Run], own: str, other: str | None = None) -> dict[str, float]:
    """The ratio of our figure `own` to their figure `other` (default: the same) in each repetition; its median and
    range."""
    each = [mine[own] / peer[other or own] for mine, peer in zip(ours, theirs, strict=True)]
    return {"median": round(statistics.median(each), 3), "least": round(min(each), 3), "most": round(max(each), 3)}


def ratio_lines(result: Mapping[str, dict[str, float]]) -> Iterator[str]:
    """A line for each ratio."""
    for name, each in result.items():
        yield f"{name:<40}{each['median']:>7.2f}   ({each['least']:.2f} to {each['most']:.2f})"
