"""Names of sets, entries and numbers -> what a page calls them."""

from collections import Counter
from collections.abc import Sequence

from pipelines.records import Condition
from pipelines.records.entries import OWN_PROMPT, Entry

_CONDITIONS = {
    Condition.REAL: "",
    Condition.BLANK: "blank image",
    Condition.ABSENT: "no image",
    Condition.SHUFFLED: "shuffled image",
    Condition.CAPTIONED: "with caption",
    Condition.BLACK: "black image",
    Condition.SHUFFLED_IN_TASK: "image shuffled in its task",
    Condition.PATCH_SHUFFLED: "shuffled patches",
    Condition.MIRRORED: "mirrored image",
    Condition.CAPTION_ONLY: "caption alone",
    Condition.GOLD_HIDDEN: "right option hidden",
}
BEGINNINGS = {
    "cut_0": "none of its reasoning",
    "cut_25": "25 % of its reasoning",
    "cut_50": "50 % of its reasoning",
    "cut_75": "75 % of its reasoning",
    "cut_100": "all of its reasoning",
    "mistake": "50 % and a mistake",
    "other": "another question's reasoning",
    "filler": "filler of its length",
}


def of_set(source: str, file: str) -> str:
    """A set's source, and the source's file where there is one."""
    return ", ".join(filter(None, (source, file)))


def of_entry(text: str) -> str:
    """An entry such as `zero_shot+rationale/blank` in words."""
    entry = Entry.parse(text)
    own = entry.prompt is OWN_PROMPT[entry.arm]
    named = (
        entry.arm.replace("_", " "),
        "" if own else f"{entry.prompt.replace('_', ' ')} prompt",
        f"{entry.num_shots} example{'s' * (entry.num_shots > 1)}" if entry.num_shots else "",
        _CONDITIONS[entry.condition],
    )
    return ", ".join(filter(None, named))


def of_condition(condition: Condition) -> str:
    """A condition in words."""
    return _CONDITIONS[condition] or "real image"


def of_all(entries: Sequence[tuple[str, int]]) -> list[str]:
    """Entries and numbers of seeds in words; the seed is named where an entry is there several times."""
    counts = Counter(entry for entry, _ in entries)
    return [of_entry(entry) + f", seed {seed}" * (counts[entry] > 1) for entry, seed in entries]


def percent(value: float | None) -> str:
    """0.5468 as `54.7 %`."""
    return "unknown" if value is None else f"{100 * value:.1f} %"


def interval(ends: Sequence[float]) -> str:
    """Both ends of an interval of a share, in per cent without the sign."""
    return " to ".join(f"{100 * end:.1f}" for end in ends)


def tick(value: float) -> str:
    """A difference at an axis: no more digits than it has."""
    return f"{round(100 * value, 1):+g}" if value else "0"


def points(value: float) -> str:
    """0.031 as `+3.1`."""
    return f"{100 * value:+.1f}"


def probability(p: float) -> str:
    """A p value as it is printed."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"  # noqa: PLR2004 - the least that is printed


def place(value: float, low: float, high: float) -> str:
    """Where a value lies on an axis, for an SVG."""
    return f"{100 * (min(max(value, low), high) - low) / (high - low):.2f}%"
