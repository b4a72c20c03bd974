"""A report -> the numbers that MLflow keeps: accuracies and the primary difference, with their intervals.

Names such as `accuracy/zero_shot-rationale/real`, `accuracy_low/...` and `accuracy_high/...`; no name is the beginning
of another one's path, since some stores of MLflow keep them as files.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

MOST = 600  # metrics of a run
_NOT_OF_A_NAME = re.compile(r"[^\w./ -]+", re.ASCII)


def metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """Name -> value, of at most 600: the first entries where there are more."""
    entries, several = report["examination"], len(report["baselines"]) > 1
    counts = Counter((e["source"], e["file"], e["entry"]) for e in entries)
    found: dict[str, float] = {}
    for row in report["comparisons"]:
        if row["primary"]:
            told = f"{row['second']['entry']} minus {row['first']['entry']}".replace("/", " ")
            found |= _with_interval("difference", [_set(row, several), told, _seeds(row)], row["difference"], row)
    for entry in entries:
        again = counts[entry["source"], entry["file"], entry["entry"]] > 1
        named = [_set(entry, several), entry["entry"], f"seed {entry['seed']}" if again else ""]
        found |= _with_interval("accuracy", named, entry["accuracy"], entry)
        found |= {_name("unscored", named): entry["unscored"] / entry["asked"]}
    return dict(list(found.items())[:MOST])


def _with_interval(kind: str, named: Iterable[str], value: float, row: Mapping[str, Any]) -> dict[str, float]:
    named = list(named)
    low, high = row["interval"]
    return {_name(kind, named): value, _name(f"{kind}_low", named): low, _name(f"{kind}_high", named): high}


def _name(kind: str, named: Iterable[str]) -> str:
    return "/".join([kind, *(_NOT_OF_A_NAME.sub("-", each).strip("/. ") for each in named if each)])


def _set(row: Mapping[str, Any], several: bool) -> str:
    return f"{row['source']} {row['file']}".replace("/", " ").strip() if several else ""


def _seeds(row: Mapping[str, Any]) -> str:
    seeds = [row[side]["seed"] for side in ("second", "first")]
    return f"seeds {seeds[0]} {seeds[1]}" if any(seeds) else ""
