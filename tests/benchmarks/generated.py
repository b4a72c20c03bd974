"""Made-up question sets in the released forms of PMC-VQA and MatCha, dirt included; the same seed gives the same bytes.

python -m tests.benchmarks.generated pmc_vqa FOLDER --rows 230000 --images 150000 --version 2 --kind zip
"""

import argparse
import csv
import dataclasses
import functools
import hashlib
import io
import json
import random
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from PIL import Image

Row = dict[str, str]
LETTERS = "ABCD"
HARMLESS = frozenset({"png_called_jpg", "formula_cell", "control_characters"})  # rows as good as the clean ones
REPEATS = frozenset({"duplicate_row", "same_text_other_case", "same_picture_other_name"})  # of the row just before
ONLY_VERSION_1 = frozenset({"quoted_label", "label_contradicts_answer"})  # version 2 has no answer text
MATCHA_DIRT = ("answer_is_no_option", "missing_image", "truncated_image", "not_json", "empty_vqa")

_FORMS = (("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), *[("JPEG", "RGB")] * 45)
_MATCHA_FORMS = (("TIFF", "I;16"), ("TIFF", "L"), ("TIFF", "RGB"), ("PNG", "RGB"), ("PNG", "L"), *[("JPEG", "RGB")] * 5)
_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "TIFF": ".tif"}
_FIRST_ARTICLE, _ARTICLE_STEP = 1_000_003, 11  # seeds that differ modulo the step share no article

_ASKED = (
    "What does the {view} of the {side} {organ} in this {age}-year-old patient show{mark}?",
    "Which finding is marked{mark} on the {view} of the {side} {organ} at age {age}?",
    "What is the most likely diagnosis, given the {view} of the {side} {organ}{mark} ({age} years)?",
    "In the {view}, which structure lies next to the {side} {organ} of the {age}-year-old{mark}?",
    "A {age}-year-old was followed up by {view}: what changed in the {side} {organ}{mark}?",
    "Where is the lesion of the {side} {organ} located on this {view}{mark}, at {age} years?",
)
_NOTHING = ("None", "NA", "N/A", "None of the above.")
_TOKENS = ("<|im_end|>", "<|im_end|>\n<|im_start|>assistant\nA", "<|vision_start|><|image_pad|><|vision_end|>")
_JOURNALS = ("ijms", "jcm", "cancers")
_GOLD_WEIGHTS = {1: (22, 32, 27, 19), 2: (21, 25, 36, 18)}  # letters are not equally often right


def _words(text: str) -> list[str]:
    return text.split("|")


_VIEWS = _words(
    "axial CT|coronal CT|sagittal CT|T1-weighted MRI|T2-weighted MRI|FLAIR image|PET scan|ultrasound image|"
    "chest radiograph|angiogram|mammogram|fundus photograph|OCT scan|endoscopic view|H&E section|Gram stain|"
    "immunofluorescence image|electron micrograph|gross specimen|Kaplan-Meier plot"
)
_MARKS = _words("|| (arrow)| (arrowheads)| (asterisk)| in panel B|, compared with panel A|\nin panel (c)")
_SIDES = _words("left|right|upper|lower|anterior|posterior")
_ORGANS = _words(
    "lung|liver|kidney|spleen|pancreas|thyroid|breast|ovary|testis|retina|femur|tibia|humerus|mandible|orbit|"
    "temporal lobe|frontal lobe|cerebellum|atrium|ventricle|colon|ileum|stomach|bladder|adrenal gland"
)
_DEGREES = _words("Diffuse|Focal|Mild|Severe|Bilateral|Patchy|Nodular|Cystic|Necrotic|Calcified|Chronic|Acute")
_FINDINGS = _words(
    "uptake pattern|oedema|haemorrhage|fibrosis|thrombus|abscess|fracture|stenosis|aneurysm|metastasis|effusion|"
    "atrophy|hyperplasia|granuloma|infarction|consolidation|lymphadenopathy|mucoepidermoid carcinoma|"
    "schwannoma, benign|Crohn’s disease|Sjögren syndrome|dilatation > 5 mm|perfusion defect|mass effect"
)
_TECHNIQUES = _words("SEM|TEM|XRD|XPS|AFM|Raman|FTIR|EDS|TGA|Optical microscopy")
_MATERIALS = _words("TiO2|ZnO|graphene oxide|Ti-6Al-4V|316L steel|perovskite|zeolite|silica aerogel|MoS2")
_PROPERTIES = _words(
    "Equiaxed grains|Columnar grains|Amorphous halo|Sharp (002) reflection|Micropores below 2 nm|Dendrites|Cracks, and "
    "needle-like precipitates|Uniform distribution|Segregation of Ti|Rough surface|Smooth surface"
)
_TOPICS = _words(
    "Characterization Technique Identification|Characterization Purpose Inference|Material Classification|"
    "Image Content Analysis|Surface Microstructure Assessment|Surface Roughness Assessment|Defect Type Classification|"
    "Grain/Pore Size Classification|Crystallographic Data Inference|Crystallinity Classification|"
    "Multiphase Interface Assessment|XRD Pattern Analysis|Phase Analysis|Elemental Mapping Analysis|"
    "Element Distribution Homogeneity Assessment|Material Morphology and Composition Uniformity Assessment|"
    "Physical and Chemical Properties Inference|Mechanical Properties Analysis|Thermal Analysis|"
    "Infrared (IR) and Raman (RS) Spectral Analysis|XPS Spectrum Analysis"
)


@dataclasses.dataclass(frozen=True)
class Expected:
    """What was written.

    read: data rows of the CSV, or lines of the JSONL. questions: the CSV's rows, or what the lines that are JSON hold.
    images: image files, damaged ones too. rows: kind of dirt -> the 1-based numbers of its rows (or lines); no row has
    two kinds.
    """

    read: int
    questions: int
    images: int
    rows: dict[str, frozenset[int]]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each kind of dirt has."""
        return {kind: len(numbers) for kind, numbers in self.rows.items()}


class _Pictures:
    """Takes image files by their name: into a zip, a folder, or nowhere. A zip's directory waits on disk, so that any
    number of members costs no memory."""

    def __init__(self, folder: Path, kind: str, archive: str, inside: str):
        if kind not in ("zip", "folder", "none"):
            raise ValueError(f"images is zip, folder or none, not {kind!r}")
        self.kind, self.inside, self.num_files = kind, inside, 0
        self.folder = folder / inside
        if kind == "folder":
            self.folder.mkdir(parents=True, exist_ok=True)
        if kind == "zip":
            self._zip = (folder / archive).open("wb")
            self._directory = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the zip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self.kind == "zip":
            with self._zip, self._directory:
                self._end()

    def add(self, name: str, data: bytes) -> None:
        """Store one file."""
        self.num_files += self.kind != "none"
        if self.kind == "folder":
            (self.folder / name).write_bytes(data)
        if self.kind == "zip":
            member, offset, size = f"{self.inside}/{name}".encode(), self._zip.tell(), len(data)
            # Version 4.5, UTF-8 name, stored, 1 January 1980.
            head = struct.pack("<HHHHHIII", 45, 0x800, 0, 0, 0x21, zlib.crc32(data), size, size)
            self._zip.write(b"PK\3\4" + head + struct.pack("<HH", len(member), 0) + member + data)
            tail = struct.pack("<HHHHHII", len(member), 12, 0, 0, 0, 0, 0xFFFFFFFF) + member
            self._directory.write(b"PK\1\2\55\0" + head + tail + struct.pack("<HHQ", 1, 8, offset))

    def _end(self) -> None:
        """The directory and its end records, in their 64-bit form."""
        start, size = self._zip.tell(), self._directory.tell()
        self._directory.seek(0)
        while block := self._directory.read(1 << 20):
            self._zip.write(block)
        count = self.num_files
        self._zip.write(b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, start))
        self._zip.write(b"PK\6\7" + struct.pack("<IQI", 0, start + size, 1))
        self._zip.write(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


def _picture(seed: int, index: int, side: int, mode: str = "RGB") -> Image.Image:
    """Eight by eight random values, blurred: no two are alike, not to a perceptual hash either."""
    values = hashlib.shake_128(f"{seed}/{index}".encode()).digest(192)
    drawn, values = ("I;16", values[:128]) if mode == "I;16" else ("RGB", values)
    image = Image.frombytes(drawn, (8, 8), values).resize((side, side), Image.Resampling.BILINEAR)
    if mode == "RGBA":
        image.putalpha(image.getchannel("R"))
    return image.convert(mode)


def _encoded(image: Image.Image, form: str, quality: int = 85) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **({"quality": quality} if form == "JPEG" else {}))
    return buffer.getvalue()


def _reencoded(image: Image.Image) -> bytes:
    """What the picture looks like, on white, in other bytes."""
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return _encoded(image.convert("RGB"), "JPEG", quality=60)


def _truncated(jpeg: bytes) -> bytes:
    """Cut in the middle of what follows the headers."""
    return jpeg[: (jpeg.index(b"\xff\xda") + len(jpeg)) // 2]


def _bomb() -> bytes:
    """A PNG of a few bytes that says that it has 3.6 thousand million pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for tag, body in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))
    return data


def _plan(num_rows: int, share: float, seed: int, kinds: Iterable[str]) -> dict[int, str]:
    """Row number -> its dirt: the kinds in turn, one row in each of as many blocks, never a block's first row."""
    if not 0 <= share <= 0.5:
        raise ValueError(f"dirt_share is from 0 to 0.5, so that the row before a dirty one is clean, not {share}")
    rng, order, num_dirty = random.Random(seed), sorted(kinds), int(num_rows * share)
    starts = [block * num_rows // num_dirty for block in range(num_dirty)]
    ends = [*starts[1:], num_rows][:num_dirty]
    return {
        rng.randrange(start + 1, end) + 1: order[block % len(order)]
        for block, (start, end) in enumerate(zip(starts, ends, strict=True))
    }


def _by_kind(plan: dict[int, str], kinds: Iterable[str]) -> dict[str, frozenset[int]]:
    numbers: dict[str, list[int]] = {kind: [] for kind in sorted(kinds)}
    for number, kind in plan.items():
        numbers[kind].append(number)
    return {kind: frozenset(found) for kind, found in numbers.items()}


def _text(row: Row, letter: str) -> str:
    return row[f"Choice {letter}"].partition(":")[2].strip()


def _choose(row: Row, letter: str) -> None:
    if "Answer_label" in row:
        row["Answer"], row["Answer_label"] = _text(row, letter), letter
    else:
        row["Answer"] = letter


def _gold(row: Row) -> str:
    return row.get("Answer_label", row["Answer"])


def _quoted_label(row: Row, rng: random.Random) -> None:
    quote = rng.choice("'\"")
    row["Choice A"], row["Choice D"] = f" {quote}{row['Choice A'].lstrip()}", f"{row['Choice D'].rstrip()}{quote}"
    row["Answer_label"] = quote


def _doubled_prefix_certain(row: Row, rng: random.Random) -> None:
    _choose(row, rng.choice("AD"))
    row["Choice B"] = f" C:{_text(row, 'B')} "


def _doubled_prefix_uncertain(row: Row, rng: random.Random) -> None:
    """Version 1: label B, which no option bears, and the text of the second C. Version 2: C, which two options bear."""
    _choose(row, "C")
    row["Choice B"] = f" C:{_text(row, 'B')} "
    if "Answer_label" in row:
        row["Answer_label"] = "B"


def _shifted_options(row: Row, rng: random.Random) -> None:
    _choose(row, "A")
    row["Choice B"], row["Choice C"], row["Choice D"] = f" C:{_text(row, 'B')} ", f" D:{_text(row, 'C')} ", ""


def _label_contradicts_answer(row: Row, rng: random.Random) -> None:
    row["Answer"] = _text(row, rng.choice(LETTERS.replace(_gold(row), "")))


def _answer_is_no_option(row: Row, rng: random.Random) -> None:
    row["Answer"] = "A finding that no option names" if "Answer_label" in row else "E"


def _repeated_options(row: Row, rng: random.Random) -> None:
    letter = rng.choice(LETTERS.replace(_gold(row), ""))
    row[f"Choice {letter}"] = f" {letter}:{_text(row, _gold(row))} "


def _too_few_cells(row: Row, rng: random.Random) -> None:
    for column in list(row)[rng.choice((3, 5, -1)) :]:
        del row[column]


def _same_text_other_case(row: Row, rng: random.Random) -> None:
    row["Question"] = "  ".join(row["Question"].upper().split()) + " "
    for letter in LETTERS:
        row[f"Choice {letter}"] = f" {letter}:  {_text(row, letter).upper()}"
    _choose(row, _gold(row))


def _question(change: Callable[[str, random.Random], str]) -> Callable[[Row, random.Random], None]:
    return lambda row, rng: row.update(Question=change(row["Question"], rng))


_IN_TEXT: dict[str, Callable[[Row, random.Random], None]] = {
    "quoted_label": _quoted_label,
    "doubled_prefix_certain": _doubled_prefix_certain,
    "doubled_prefix_uncertain": _doubled_prefix_uncertain,
    "shifted_options": _shifted_options,
    "label_contradicts_answer": _label_contradicts_answer,
    "answer_is_no_option": _answer_is_no_option,
    "repeated_options": _repeated_options,
    "too_few_cells": _too_few_cells,
    "too_many_cells": lambda row, rng: row.update({"": rng.choice(("", "D", " E:Another option "))}),
    "duplicate_row": lambda row, rng: None,
    "same_text_other_case": _same_text_other_case,
    "empty_question": _question(lambda text, rng: rng.choice(("", "  ", "\n"))),
    "not_utf8": _question(lambda text, rng: f"\udce9{text}"),  # written as the byte 0xE9
    "formula_cell": _question(lambda text, rng: rng.choice(("=cmd|' /C calc'!A0 ", "@SUM(1+1)*", "+1+", "-2-")) + text),
    "control_characters": _question(lambda text, rng: text[:4] + rng.choice(("\a", "\x1b[31m", "\x7f")) + text[4:]),
    "special_tokens": _question(lambda text, rng: f"{text} {rng.choice(_TOKENS)}"),
}
_IN_NAME: dict[str, Callable[[str, str], str]] = {  # the image's name and the folder it is in -> what the row says
    "missing_image": lambda name, inside: f"absent_{name}",
    "parent_path": lambda name, inside: f"../{inside}/{name}",
    "absolute_path": lambda name, inside: f"/{inside}/{name}",
    "url_name": lambda name, inside: f"https://example.com/{inside}/{name}",
    "nul_in_name": lambda name, inside: f"{name}\0.jpg",
    "control_in_name": lambda name, inside: f"{name[:4]}\x1b[31m{name[4:]}",
}
_IN_FILE: dict[str, Callable[[Image.Image], bytes]] = {
    "truncated_jpeg": lambda image: _truncated(_encoded(image, "JPEG")),
    "text_as_jpeg": lambda image: b"<html><body>404: not found</body></html>\n",
    "empty_image": lambda image: b"",
    "bomb_png": lambda image: _bomb(),
    "png_called_jpg": lambda image: _encoded(image, "PNG"),
    "same_picture_other_name": _reencoded,
}
PMC_VQA_DIRT = (*_IN_TEXT, *_IN_NAME, *_IN_FILE)


@dataclasses.dataclass(frozen=True)
class _PmcVqa:
    """The clean rows and pictures of one set, each a function of its number alone."""

    version: int
    num_rows: int
    num_images: int
    seed: int
    side: int

    @property
    def inside(self) -> str:
        return "images" if self.version == 1 else "figures"

    def figure(self, index: int) -> str:
        """A picture's name. Three pictures of ten are figures of one article."""
        tens, one = divmod(index, 10)
        article = _FIRST_ARTICLE + _ARTICLE_STEP * (8 * tens + min(one, 7)) + self.seed % _ARTICLE_STEP
        figure, suffix = max(1, one - 6), _SUFFIXES[_FORMS[index % len(_FORMS)][0]]
        if self.version == 2:
            return f"PMC{article}_Fig{figure}_{index % 97}{suffix}"
        if index % 2:
            return f"PMC{article}_F{figure}{suffix}"
        return f"PMC{article}_{_JOURNALS[index % 3]}-{index % 23 + 1}-{index % 99_991:05}-f{figure:03}{suffix}"

    def picture_of(self, number: int) -> int:
        """The picture that a row is about: neighbours share one."""
        return (number - 1) * self.num_images // self.num_rows

    def file(self, index: int) -> bytes:
        """A picture's bytes."""
        form, mode = _FORMS[index % len(_FORMS)]
        return _encoded(_picture(self.seed, index, self.side, mode), form)

    def row(self, number: int) -> Row:
        """A row's cells by column, in the order of the released file."""
        rng = random.Random(self.seed << 40 | number)
        question, texts = _asked(rng), _options(rng)
        gold = rng.choices(LETTERS, weights=_GOLD_WEIGHTS[self.version])[0]
        space = rng.choice("\u00a0\u2009") if rng.random() < 0.02 else ""
        choices = {f"Choice {letter}": f" {letter}:{space}{text} " for letter, text in zip(LETTERS, texts, strict=True)}
        name = self.figure(self.picture_of(number))
        if self.version == 1:
            answer = texts[LETTERS.index(gold)] + rng.choice(("", "", "", " "))
            return {"Figure_path": name, "Question": question, "Answer": answer, **choices, "Answer_label": gold}
        caption = f"Figure {number % 9 + 1}. {texts[0]}, {rng.choice(_VIEWS)}.\nScale bar, {rng.randrange(5, 99)} µm."
        row = {"index": str(number - 1), "Figure_path": name, "Caption": caption, "Question": question}
        return {**row, **choices, "Answer": gold, "split": "train"}

    def spoil(self, kind: str, number: int, row: Row, pictures: _Pictures) -> None:
        """Put one kind of dirt into a clean row, and what picture it needs beside the others."""
        own = self.num_images + number  # no other row's picture
        if kind in _IN_TEXT:
            _IN_TEXT[kind](row, random.Random(self.seed << 40 | number))
        elif kind in _IN_NAME:
            row["Figure_path"] = _IN_NAME[kind](row["Figure_path"], self.inside)
        else:
            index = self.picture_of(number - 1) if kind in REPEATS else own
            mode = _FORMS[index % len(_FORMS)][1] if kind in REPEATS else "RGB"
            row["Figure_path"] = str(Path(self.figure(own)).with_suffix(".png" if kind == "bomb_png" else ".jpg"))
            pictures.add(row["Figure_path"], _IN_FILE[kind](_picture(self.seed, index, self.side, mode)))


def _asked(rng: random.Random) -> str:
    question = rng.choice(_ASKED).format(
        view=rng.choice(_VIEWS),
        side=rng.choice(_SIDES),
        organ=rng.choice(_ORGANS),
        mark=rng.choice(_MARKS),
        age=rng.randrange(1, 100),
    )
    return f'"{question}"' if rng.random() < 0.01 else question


def _options(rng: random.Random) -> list[str]:
    texts = [f"{rng.choice(_DEGREES)} {finding}" for finding in rng.sample(_FINDINGS, len(LETTERS))]
    if rng.random() < 0.04:
        texts[-1] = rng.choice(_NOTHING)
    return texts


def write_pmc_vqa(
    folder: Path,
    *,
    num_rows: int,
    num_images: int,
    version: int = 1,
    seed: int = 0,
    dirt_share: float = 0.02,
    images: str = "zip",
    image_side: int = 24,
    answer_column: str = "Answer",
) -> Expected:
    """Write `train.csv` (version 1) or `train_2.csv` (2) with its images: as `zip`, `folder` or `none`.

    num_images: of the clean rows; damaged, misnamed and re-encoded pictures come on top. dirt_share: at most 0.5; the
    kinds of dirt come in turn. answer_column: early revisions of version 1 spell it `Anwser`. The CSV is the same
    whatever `images` is. Seeds that differ modulo 11 share no article.
    """
    made = _PmcVqa(version, num_rows, num_images, seed, image_side)
    kinds = [kind for kind in PMC_VQA_DIRT if version == 1 or kind not in ONLY_VERSION_1]
    plan = _plan(num_rows, dirt_share, seed, kinds)
    mark = "" if version == 1 else "_2"
    folder.mkdir(parents=True, exist_ok=True)
    with (
        _Pictures(folder, images, f"images{mark}.zip", made.inside) as pictures,
        (folder / f"train{mark}.csv").open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        for index in range(num_images if images != "none" else 0):
            pictures.add(made.figure(index), made.file(index))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([answer_column if column == "Answer" else column for column in made.row(1)])
        for number in range(1, num_rows + 1):
            kind = plan.get(number)
            row = made.row(number - 1 if kind in REPEATS else number)
            if kind:
                made.spoil(kind, number, row, pictures)
            writer.writerow(row.values())
    return Expected(num_rows, num_rows, pictures.num_files, _by_kind(plan, kinds))


def _matcha_name(index: int) -> str:
    return f"s41467-{index // 3:06}_fig{index % 3 + 1}{_SUFFIXES[_MATCHA_FORMS[index % len(_MATCHA_FORMS)][0]]}"


def _matcha_image(name: str, side: int, rng: random.Random) -> dict[str, Any]:
    """One image of a record; its polygon, if it has one, holds the middle and may reach outside."""
    geometry = None
    if rng.random() < 0.5:
        left, top = (rng.randrange(-4, side // 2) for _ in range(2))
        right, bottom = (rng.randrange(side // 2 + 1, side + 5) + rng.choice((0, 0.5)) for _ in range(2))
        geometry = [{"x": x, "y": y} for x, y in ((left, top), (right, top), (right, bottom), (left, bottom))]
    return {"classification": rng.choice(_TECHNIQUES), "image_path": name, "geometry": geometry}


def _matcha_question(topic: str, rng: random.Random) -> dict[str, Any]:
    letters = "ABCDEF"[: rng.choice((2, 3, 4, 4, 4, 4, 5, 6))]
    options = dict(zip(letters, rng.sample(_PROPERTIES, len(letters)), strict=True))
    sample = f"{rng.choice(_MATERIALS)} annealed at {rng.randrange(100, 1500)} °C for {rng.randrange(1, 72)} h"
    lines = [f"{topic}: what does the figure show of {sample}?", *(f"{key}: {text}" for key, text in options.items())]
    return {"question": "\n".join(lines), "answer": rng.choice(letters), "options": options, "topic": topic}


def _matcha_record(number: int, num_records: int, num_images: int, seed: int, side: int) -> dict[str, Any]:
    rng = random.Random(seed << 40 | number)
    first = (number - 1) * num_images // num_records
    indexes = {(first + step) % num_images for step in range(rng.choice((1,) * 8 + (2, 3)))}
    topics = [_TOPICS[(number - 1 + step) % len(_TOPICS)] for step in range(rng.choice((1,) * 9 + (2, 3)))]
    record = {
        "id": f"{seed}-{number:05}",
        "vqa": [_matcha_question(topic, rng) for topic in topics],
        "images": [_matcha_image(_matcha_name(index), side, rng) for index in sorted(indexes)],
    }
    if number % 8:
        name = f"s41467-{first // 3:06}"
        url, title = f"https://example.org/articles/{name}", f"On {rng.choice(_MATERIALS)}: a study"
        info = {"article_name": name, "title": title, "authors": "A. Author, B. Author", "article_url": url}
        record["article_info"] = {**info, "license": "CC BY 4.0"}
    return record


def _matcha_line(record: dict[str, Any], kind: str | None, number: int, pictures: _Pictures) -> str:
    """The record's line, dirty if a kind is given; a dirty record has one question at most, and one image."""
    if kind:
        record["vqa"], record["images"] = record["vqa"][: kind != "empty_vqa"], record["images"][:1]
    if kind == "answer_is_no_option":
        record["vqa"][0]["answer"] = "H"
    if kind in ("missing_image", "truncated_image"):
        record["images"][0]["image_path"] = f"{kind}_{number}.jpg"
    if kind == "truncated_image":
        pictures.add(f"{kind}_{number}.jpg", _truncated(_encoded(_picture(-number - 1, 0, 24), "JPEG")))
    line = json.dumps(record, ensure_ascii=False)
    return line[: len(line) // 2] if kind == "not_json" else line


def write_matcha(
    folder: Path, *, num_records: int, seed: int = 0, dirt_share: float = 0.0, image_side: int = 24
) -> Expected:
    """Write `data/matcha_vqa_inputs.jsonl` and `data/images.zip`. dirt_share: at most 0.5, the kinds in turn."""
    num_images = max(1, num_records * 5 // 7)
    plan = _plan(num_records, dirt_share, seed, MATCHA_DIRT)
    data, num_questions = folder / "data", 0
    data.mkdir(parents=True, exist_ok=True)
    with (
        _Pictures(data, "zip", "images.zip", "images") as pictures,
        (data / "matcha_vqa_inputs.jsonl").open("w", encoding="utf-8") as file,
    ):
        for index in range(num_images):
            form, mode = _MATCHA_FORMS[index % len(_MATCHA_FORMS)]
            pictures.add(_matcha_name(index), _encoded(_picture(seed, index, image_side, mode), form))
        for number in range(1, num_records + 1):
            record, kind = _matcha_record(number, num_records, num_images, seed, image_side), plan.get(number)
            file.write(_matcha_line(record, kind, number, pictures) + "\n")
            num_questions += len(record["vqa"]) if kind != "not_json" else 0
    return Expected(num_records, num_questions, pictures.num_files, _by_kind(plan, MATCHA_DIRT))


def main(arguments: list[str] | None = None) -> None:
    """Write what the command line says, and print what that was."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.generated", description=__doc__)
    parser.add_argument("source", choices=("pmc_vqa", "matcha"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=230_000, help="of the CSV, or records of MatCha")
    parser.add_argument("--images", type=int, default=150_000, help="of PMC-VQA")
    parser.add_argument("--version", type=int, choices=(1, 2), default=1, help="of PMC-VQA")
    parser.add_argument("--kind", choices=("zip", "folder", "none"), default="zip", help="of PMC-VQA's images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dirt-share", type=float, default=0.02)
    given = parser.parse_args(arguments)
    same = {"seed": given.seed, "dirt_share": given.dirt_share}
    write = functools.partial(write_matcha, num_records=given.rows, **same)
    if given.source == "pmc_vqa":
        size = {"num_rows": given.rows, "num_images": given.images}
        write = functools.partial(write_pmc_vqa, **size, version=given.version, images=given.kind, **same)
    start = time.perf_counter()
    expected = write(given.folder)
    seconds = time.perf_counter() - start
    print(f"{given.folder}: {expected.read} rows, {expected.questions} questions, {expected.images} image files")
    print(f"dirt: {', '.join(f'{kind} {count}' for kind, count in expected.counts.items())}")
    print(f"written in {seconds:.1f} s")


if __name__ == "__main__":
    main()
