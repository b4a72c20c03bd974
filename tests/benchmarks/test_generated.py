import csv
import io
import json
import struct
import zipfile

import pytest
from PIL import Image

from tests.benchmarks import generated

SIZE = {"num_rows": 300, "num_images": 200, "dirt_share": 0.4}
UNREADABLE = ("truncated_jpeg", "text_as_jpeg", "empty_image")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def data_rows(path):
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.reader(file))


def decoded(archive, member):
    with Image.open(io.BytesIO(archive.read(member))) as image:
        image.load()
        return image.convert("RGB").tobytes()


@pytest.mark.parametrize("version", [1, 2])
def test_the_same_seed_writes_the_same_bytes_and_another_seed_others(tmp_path, version):
    first, again, other = (
        generated.write_pmc_vqa(tmp_path / name, version=version, seed=seed, **SIZE)
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert first == again
    assert contents(tmp_path / "first") == contents(tmp_path / "again")
    names = [
        {row[version - 1] for row in data_rows(next((tmp_path / name).glob("*.csv")))} for name in ("first", "other")
    ]
    assert not {name for name in set.intersection(*names) if name.startswith("PMC")}
    assert other.counts == first.counts


@pytest.mark.parametrize(("version", "table"), [(1, "train.csv"), (2, "train_2.csv")])
def test_every_row_and_every_kind_of_dirt_is_counted(tmp_path, version, table):
    expected = generated.write_pmc_vqa(tmp_path, version=version, **SIZE)
    header, *rows = data_rows(tmp_path / table)
    assert len(rows) == expected.read == 300
    assert sum(expected.counts.values()) == 120
    assert all(expected.counts.values())
    assert len(frozenset.union(*expected.rows.values())) == 120
    ragged = {number for number, row in enumerate(rows, start=1) if len(row) != len(header)}
    assert ragged == expected.rows["too_few_cells"] | expected.rows["too_many_cells"]
    assert all(rows[number - 1] == rows[number - 2] for number in expected.rows["duplicate_row"])
    assert set(generated.PMC_VQA_DIRT) - set(expected.rows) == (set() if version == 1 else generated.ONLY_VERSION_1)


@pytest.mark.parametrize(
    ("version", "archive", "inside"), [(1, "images.zip", "images"), (2, "images_2.zip", "figures")]
)
def test_the_pictures_are_distinct_and_only_the_damaged_ones_cannot_be_read(tmp_path, version, archive, inside):
    expected = generated.write_pmc_vqa(tmp_path, version=version, **SIZE)
    rows = data_rows(next(tmp_path.glob("*.csv")))
    named = {
        kind: {f"{inside}/{rows[number][version - 1]}" for number in expected.rows[kind]} for kind in expected.rows
    }
    with zipfile.ZipFile(tmp_path / archive) as pictures:
        assert pictures.testzip() is None
        members = pictures.namelist()
        assert len(set(members)) == len(members) == expected.images
        assert not named["missing_image"] & set(members)
        bombs = [pictures.read(member) for member in named["bomb_png"]]
        assert {struct.unpack(">II", data[16:24]) for data in bombs} == {(60_000, 60_000)}
        damaged = {member for kind in UNREADABLE for member in named[kind]}
        for member in damaged:
            with pytest.raises(OSError):
                decoded(pictures, member)
        whole = set(members) - damaged - named["bomb_png"]
        assert len({decoded(pictures, member) for member in whole}) == len(whole)
        assert all(pictures.read(member).startswith(b"\x89PNG") for member in named["png_called_jpg"])


def test_the_table_is_the_same_whatever_becomes_of_the_pictures(tmp_path):
    made = {kind: generated.write_pmc_vqa(tmp_path / kind, images=kind, **SIZE) for kind in ("zip", "folder", "none")}
    assert len({(tmp_path / kind / "train.csv").read_bytes() for kind in made}) == 1
    with zipfile.ZipFile(tmp_path / "zip/images.zip") as pictures:
        zipped = {name: pictures.read(name) for name in pictures.namelist()}
    assert {str(path): data for path, data in contents(tmp_path / "folder").items() if path.suffix != ".csv"} == zipped
    assert [made[kind].images for kind in made] == [len(zipped), len(zipped), 0]
    assert list(contents(tmp_path / "none")) == [(tmp_path / "none/train.csv").relative_to(tmp_path / "none")]


def test_matcha_lines_hold_what_is_expected(tmp_path):
    expected = generated.write_matcha(tmp_path / "first", num_records=126, dirt_share=0.1)
    assert generated.write_matcha(tmp_path / "again", num_records=126, dirt_share=0.1) == expected
    assert contents(tmp_path / "first") == contents(tmp_path / "again")
    lines = (tmp_path / "first/data/matcha_vqa_inputs.jsonl").read_text().splitlines()
    assert len(lines) == expected.read == 126
    records = [json.loads(line) for number, line in enumerate(lines, 1) if number not in expected.rows["not_json"]]
    questions = [question for record in records for question in record["vqa"]]
    assert len(questions) == expected.questions
    assert len({question["topic"] for question in questions}) == 21
    assert {len(question["options"]) for question in questions} == {2, 3, 4, 5, 6}
    assert sum(question["answer"] not in question["options"] for question in questions) == 3
    with zipfile.ZipFile(tmp_path / "first/data/images.zip") as pictures:
        members = set(pictures.namelist())
        assert len(members) == expected.images
        modes = {Image.open(io.BytesIO(pictures.read(member))).mode for member in members}
    named = {f"images/{image['image_path']}" for record in records for image in record["images"]}
    assert len(named - members) == expected.counts["missing_image"]
    assert {"I;16", "L", "RGB"} <= modes


def test_the_command_line_says_what_it_wrote(tmp_path, capsys):
    generated.main(["pmc_vqa", str(tmp_path), "--rows", "60", "--images", "40", "--version", "2", "--kind", "none"])
    assert "60 rows, 60 questions, 0 image files" in capsys.readouterr().out
