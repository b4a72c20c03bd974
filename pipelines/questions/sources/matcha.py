"""MatCha's records as they are released -> candidates: one for each of a record's questions, for examination only.

The form of the records is described in the data set's card (FreedomIntelligence/MatCha); the stages are those of its
paper (arXiv 2509.09307).
"""

import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from infra.errors import InputError, nearest
from pipelines.questions.candidates import MAX_CHARACTERS, Candidate, Origin, RejectedError, line, lines
from pipelines.questions.table_readers import column_names
from pipelines.records import LETTERS, Split

NAME = "MatCha"
KNOWN = frozenset({"vqa", "images", "article_info"})
STAGES = {
    "Processing Correlation": (
        "Characterization Technique Identification",
        "Characterization Purpose Inference",
    ),
    "Morphology Analysis": (
        "Material Classification",
        "Image Content Analysis",
        "Surface Microstructure Assessment",
        "Surface Roughness Assessment",
        "Defect Type Classification",
        "Grain/Pore Size Classification",
    ),
    "Structure Analysis": (
        "Crystallographic Data Inference",
        "Crystallinity Classification",
        "Multiphase Interface Assessment",
        "XRD Pattern Analysis",
        "Phase Analysis",
        "Elemental Mapping Analysis",
        "Element Distribution Homogeneity Assessment",
        "Material Morphology and Composition Uniformity Assessment",
    ),
    "Property Analysis": (
        "Physical and Chemical Properties Inference",
        "Mechanical Properties Analysis",
        "Thermal Analysis",
        "Infrared (IR) and Raman (RS) Spectral Analysis",
        "XPS Spectrum Analysis",
    ),
}
_GAP, _BETWEEN, _HEADING = r"\s+", r"[\s;,.]*", r"(?:\b(?:options|choices)\s*:)?"  # around embedded options
_STAGE_OF = {line(topic).casefold(): (stage, topic) for stage, topics in STAGES.items() for topic in topics}


def check_columns(names: tuple[str, ...], *, split_given: bool) -> None:
    """Raise InputError when these are no fields of a record."""
    if "vqa" not in names:
        raise InputError(f"a record of MatCha has its questions in 'vqa'; these have {column_names.shown(names)}")


def candidates(row: dict[str, Any], origin: Origin) -> Iterator[Candidate]:
    """A candidate, or a rejected row, for each question of a record.

    Raises RejectedError for a record without questions, and InputError for a topic that is none of the 21, because
    results by topic would be wrong if topics had been renamed.
    """
    questions = row.get("vqa")
    if not isinstance(questions, list) or not questions:
        raise RejectedError("no_question_in_record")
    images = _images_or_reason(row.get("images"))
    article = _article(row.get("article_info"))
    for question in questions:
        try:
            yield _candidate(question, images, article, origin)
        except RejectedError as error:
            yield origin.rejected(str(error))


_Images = list[tuple[str, str]]  # each image's path, and its crop as text, empty for the whole image


def _candidate(question: Any, images: _Images | str, article: str, origin: Origin) -> Candidate:
    if not isinstance(question, dict):
        raise RejectedError("question_missing")
    stage, topic = _stage(question.get("topic"), origin)
    options = _options(question.get("options"))
    if isinstance(images, str):
        raise RejectedError(images)
    return origin.candidate(
        split=Split.TEST,
        stratum=stage,
        topic=topic,
        images=[path for path, _ in images],
        crops=[box for _, box in images],
        text=without_options(_text(question.get("question")), options),
        options=options,
        gold=line(_text(question.get("answer"))).strip(" ().:").upper(),
        figure=line(PurePosixPath(images[0][0]).stem).casefold(),
        article=article,
        stretch_tiff=True,  # as the benchmark's own reader does, also with images of 8 bits
        evaluation_only=True,
    )


def _article(info: Any) -> str:
    """The first of the article's address, file name and title that is given."""
    said = (
        [_text(info.get(name)) for name in ("article_url", "article_name", "title")] if isinstance(info, dict) else []
    )
    return next((named for text in said if (named := line(text))), "")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _stage(topic: Any, origin: Origin) -> tuple[str, str]:
    known = _STAGE_OF.get(line(_text(topic)).casefold())
    if known is None:
        topics = [each for topics in STAGES.values() for each in topics]
        raise InputError(
            f"{origin.file}, record {origin.row}: {str(topic)[:80]!r} is none of MatCha's {len(topics)} topics."
            f"{nearest(str(topic)[:80], topics)}"
        )
    return known


def _options(value: Any) -> list[str]:
    """The options' texts in letter order. In Parquet, letters that a question does not have are null."""
    options = {letter: text for letter, text in value.items() if text is not None} if isinstance(value, dict) else {}
    if not options or not all(isinstance(text, str) for text in options.values()):
        raise RejectedError("options_missing")
    by_letter = {letter.strip().upper(): line(text) for letter, text in options.items()}
    if sorted(by_letter) != list(LETTERS[: len(options)]):
        raise RejectedError("option_letters_have_gaps")
    return [by_letter[letter] for letter in sorted(by_letter)]


def without_options(text: str, options: list[str]) -> str:
    """The question without its options: MatCha repeats them at the end of the text, each behind its letter, and a
    prompt would show them twice.

    Unchanged where the text does not end with all of them, word for word and in order.
    """
    if len(text) > MAX_CHARACTERS:
        return text  # not searched, since it is rejected for its length
    text = lines(text)
    if sum(map(len, options)) > len(text):
        return text  # too short to hold the options
    written = (_GAP.join(re.escape(word) for word in option.split()) for option in options)
    marked = [rf"[(\[]?(?<!\w){letter}\s*[).:\]]\s*{words}" for letter, words in zip(LETTERS, written, strict=False)]
    found = re.search(rf"{_HEADING}\s*{_BETWEEN.join(marked)}{_BETWEEN}$", text, re.IGNORECASE)
    return text[: found.start()].rstrip() if found else text


def _images_or_reason(value: Any) -> _Images | str:
    """The images of a record's questions, or the reason why none of them can be asked."""
    try:
        return _images(value)
    except RejectedError as error:
        return str(error)


def _images(value: Any) -> _Images:
    if not isinstance(value, list) or not value:
        raise RejectedError("image_missing")
    images = []
    for image in value:
        path = image.get("image_path") if isinstance(image, dict) else None
        if not isinstance(path, str) or not path:
            raise RejectedError("image_missing")
        images.append((path, _box(image.get("geometry"))))
    return images


def _box(geometry: Any) -> str:
    """The bounding box of a list of corners, as `left,top,right,bottom`."""
    if geometry is None or geometry == []:
        return ""
    if not isinstance(geometry, list):
        raise RejectedError("geometry_unreadable")
    try:
        xs = [float(corner["x"]) for corner in geometry]
        ys = [float(corner["y"]) for corner in geometry]
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise RejectedError("geometry_unreadable") from error
    if not all(math.isfinite(value) for value in xs + ys):
        raise RejectedError("geometry_unreadable")
    return ",".join(f"{edge:.12g}" for edge in (min(xs), min(ys), max(xs), max(ys)))
