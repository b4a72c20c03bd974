"""A forecast -> a table for a terminal of 100 columns."""

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.forecast import NOT_MADE, NOT_NEEDED, UP_TO_DATE, WAITS

WIDTH = 100
_UNKNOWN, _NOTHING = "?", "-"
_COLUMNS = {"tokens": "tokens", "hours": "hours", "gpu_hours": "GPU-hours", "disk_gib": "GiB", "price": "price"}
_FROM_HOURS = ("gpu_hours", "price")
_INDENT = " " * 13
_THOUSAND, _LEAST = 1000, 0.001


def show(facts: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a forecast, for people or as JSON. facts: as `infra.forecast.forecast` returns them."""
    try:
        print(json.dumps(facts, indent=2) if as_json else table(facts), flush=True)
    except BrokenPipeError:  # `| head` has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # since Python flushes once more at its end


def table(facts: Mapping[str, Any]) -> str:
    """The whole report: a line for each stage with its numbers, why it would run and what it asks for; the sums; and
    what the numbers are based on."""
    stages = facts["stages"]
    figures = [name for name in _COLUMNS if name != "price" or facts["gpu_hour_price"] is not None]
    lines = [
        f"{facts['recipe']} in {facts['run_dir']}",
        f"config {facts['config_digest'][:12]}, made for {facts['cluster'] or 'no certain cluster'}",
        "",
        _line("stage", "", "CPUs", "GPUs", [_COLUMNS[name] for name in figures]),
    ]
    for name, row in stages.items():
        lines += _stage(name, row, figures)
    if len(stages) > 1:
        lines.append(_line("all", "", "", "", [_sum(name, facts) for name in figures]))
    return "\n".join([*lines, *_explained(stages, figures), "", _ending(facts)])


def _stage(name: str, row: Mapping[str, Any], figures: Sequence[str]) -> Iterator[str]:
    is_idle = row["status"] in {UP_TO_DATE, NOT_NEEDED}
    numbers = [_NOTHING if row[each] is None else _number(row[each]) for each in figures]
    counts = ("", "") if is_idle else (str(row["cpus"] or 1), str(row["gpus"]))
    is_new = row["why"] == NOT_MADE
    yield _line(name, "runs (new)" if is_new else row["status"], *counts, numbers)
    about = ["" if is_new else row["why"], "" if is_idle else row["resources"]]
    yield from _wrapped("; ".join(filter(None, about)))


def _line(name: str, status: str, cpus: str, gpus: str, numbers: Sequence[str]) -> str:
    return f"{name:<10}  {status:<10}  {cpus:>6}{gpus:>6}{''.join(f'{each:>12}' for each in numbers)}".rstrip()


def _wrapped(text: str, indent: str = _INDENT) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def _sum(name: str, facts: Mapping[str, Any]) -> str:
    """The sum of a column; `>` where a part of it is not known."""
    whole = all(row[name] is None or row[name]["value"] is not None for row in facts["stages"].values())
    figure = facts["total"][name]
    if whole or figure["value"] is None:
        return _number(figure)
    return f"> {_number(figure)}" if figure["value"] >= _LEAST else _UNKNOWN


def _number(figure: Mapping[str, Any]) -> str:
    """With three significant digits."""
    value = figure["value"]
    if not value:
        return _UNKNOWN if value is None else _NOTHING
    for unit in ("", " K", " M", " G"):
        if value < _THOUSAND or unit == " G":
            break
        value /= _THOUSAND
    return f"{_digits(value)}{unit}"


def _digits(value: float) -> str:
    if value < _LEAST:
        return f"< {_LEAST}"
    return f"{value:.3g}" if value < _THOUSAND else f"{value:,.0f}"


def _explained(stages: Mapping[str, Any], figures: Sequence[str]) -> Iterator[str]:
    """What each number is based on, or why it is not known; a reason that several share is printed once."""
    whys: dict[str, list[str]] = {}
    notes: list[str] = []
    for name, row in stages.items():
        for each in figures:
            is_said_already = each in _FROM_HOURS and row["hours"] and row["hours"]["why"] == row[each]["why"]
            if row[each] is not None and row[each]["value"] != 0 and not is_said_already:
                whys.setdefault(row[each]["why"], []).append(f"{_COLUMNS[each]} of {name}")
        notes += [f"{name}: {note}" for note in row["notes"]]
    if whys:
        yield "\nwhat the numbers rest on (?: not known)"
    for why, of in whys.items():
        yield from textwrap.wrap(f"{_listed(of)}: {why}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    if notes:
        yield "\nmemory and room"
    for note in notes:
        yield from textwrap.wrap(note, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _listed(of: Sequence[str]) -> str:
    """`hours of verify, compose` for many of one column, `tokens, hours of teach` for many of one stage."""
    named: dict[str, list[str]] = {}
    for each in of:
        column, _, stage = each.partition(" of ")
        named.setdefault(stage, []).append(column)
    grouped: dict[str, list[str]] = {}
    for stage, columns in named.items():
        grouped.setdefault(", ".join(columns), []).append(stage)
    return "; ".join(f"{columns} of {', '.join(stages)}" for columns, stages in grouped.items())


def _ending(facts: Mapping[str, Any]) -> str:
    pending = facts["pending"]
    waits = any(row["status"] == WAITS for row in facts["stages"].values())
    runs = (
        f"{', '.join(pending)} would {'wait' if waits else 'run'}"
        if pending
        else "Nothing would run: all is up to date"
    )
    price = "" if facts["gpu_hour_price"] is not None else " Its price: --gpu-hour-price PRICE."
    whole = f"{runs}; nothing was. All of it, with the resolved config: --json.{price}"
    return "\n".join(textwrap.wrap(whole, WIDTH, break_on_hyphens=False))
