"""Predictions -> accuracies by entry and stratum as JUnit XML, which CI systems show and compare."""

import dataclasses
import re
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from infra.errors import InputError
from pipelines.records import Prediction
from pipelines.records.entries import Entry

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # no file of XML 1.0 may hold them
ALL = "all questions"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
    """What a model reached in an entry on a set, of one stratum or of all (empty). What has no letter counts as
    wrong."""

    questions: str
    model: str
    entry: str
    stratum: str
    asked: int
    correct: int
    unscored: int

    @property
    def accuracy(self) -> float:
        """The share of right answers."""
        return self.correct / self.asked

    def misses(self, primary: str, bar: float | None) -> bool:
        """Whether this is the primary entry on all questions of a set, and less accurate than the bar."""
        return bar is not None and self.entry == primary and not self.stratum and self.accuracy < bar

    def below(self, bar: float) -> str:
        """What to say where it misses the bar."""
        return (
            f"{self.entry} of {self.model} on {self.questions}: accuracy {self.accuracy:.4f} "
            f"({self.correct} of {self.asked}) is below {bar:g}"
        )


def scores(predictions: Iterable[Prediction]) -> list[Score]:
    """By set, entry and stratum in the order in which they come, all questions first; of each question the answer that
    counts, without rotated options, repeats and given beginnings."""
    counts: dict[tuple[str, str, str], dict[str, Counter[str]]] = {}
    for row in predictions:
        if row.rotation or row.repeat or row.prefill:
            continue
        group = (", ".join(filter(None, (row.source, row.file))), row.model, str(Entry.of(row)))
        for stratum in dict.fromkeys(("", row.stratum)):
            own = counts.setdefault(group, {}).setdefault(stratum, Counter())
            own.update(asked=1, correct=int(row.letter == row.gold), unscored=int(row.letter is None))
    return [
        Score(questions=group[0], model=group[1], entry=group[2], stratum=stratum, **own)
        for group, strata in counts.items()
        for stratum, own in strata.items()
    ]


def write(path: Path, found: Sequence[Score], primary: str, bar: float | None) -> None:
    """Write the file: a suite for each set, a test case for each entry and stratum, a failure where the primary entry
    is below the bar. Raises InputError where it cannot be written."""
    root = ET.Element("testsuites", name="preceptor examination")
    suites: dict[str, list[Score]] = {}
    for score in found:
        suites.setdefault(score.questions, []).append(score)
    for questions, own in suites.items():
        failures = sum(score.misses(primary, bar) for score in own)
        suite = ET.SubElement(root, "testsuite", name=_text(questions), tests=str(len(own)), failures=str(failures))
        for score in own:
            _add_case(suite, score, primary, bar)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise InputError(f"--junit {path} cannot be written: {error.strerror}") from error


def _add_case(suite: ET.Element, score: Score, primary: str, bar: float | None) -> None:
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_text(f"{score.questions}: {score.entry} of {score.model}"),
        name=_text(score.stratum or ALL),
    )
    properties = ET.SubElement(case, "properties")
    told = {"accuracy": f"{score.accuracy:.4f}", "n": score.asked, "correct": score.correct, "unscored": score.unscored}
    for name, value in told.items():
        ET.SubElement(properties, "property", name=name, value=str(value))
    if bar is not None and score.misses(primary, bar):
        ET.SubElement(case, "failure", message=_text(score.below(bar)), type="below_the_bar")


def _text(text: str) -> str:
    """A text without the characters that no XML may hold; the library escapes all others."""
    return _NO_XML.sub("\N{REPLACEMENT CHARACTER}", text)
