import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.errors import ConfigError, InputError
from pipelines.questions.candidates import Candidate
from pipelines.questions.sources import source
from pipelines.questions.sources.source import SourceConfig

ROWS = [
    {"image": "1.png", "question": "Which?", "options": ["x, y", 'z "q"'], "answer": "B", "split": "train"},
    {"image": "2.png", "question": "Two\nlines?", "options": ["None", "NA", "é"], "answer": "A", "split": "test"},
    {"image": "3.png", "question": "Bad?", "options": ["x"], "answer": "A", "split": "test"},
]


def write(folder, suffix, rows=ROWS):
    """The rows as a table of their own folder; in CSV the options are JSON."""
    folder.mkdir(exist_ok=True)
    path = folder / f"questions{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(row | {"options": json.dumps(row["options"])} for row in rows)
    return folder


def candidates(folder, limit=None, **settings) -> list[Candidate]:
    return list(source.candidates(source.find(SourceConfig(**settings), str(folder)), limit))


def test_one_table_gives_the_same_drafts_in_every_form(tmp_path):
    forms = [candidates(write(tmp_path / suffix, suffix)) for suffix in (".jsonl", ".csv", ".parquet")]
    told = [
        [(d.row, d.images, d.text, d.options, d.gold, d.split, d.reason, d.exact_key) for d in form] for form in forms
    ]
    assert told[0] == told[1] == told[2]
    assert [candidate.reason for candidate in forms[0]] == ["", "", "too_few_options"]
    assert forms[0][0].options == ("x, y", 'z "q"')


def test_a_row_knows_the_table_it_stands_in(tmp_path):
    first, second, _ = candidates(write(tmp_path / "mine", ".csv"), name="named")
    assert [(d.source, d.file, d.row) for d in (first, second)] == [("named", "questions.csv", n) for n in (1, 2)]
    assert candidates(tmp_path / "mine")[0].source == "own"


def test_a_limit_is_of_candidates_of_each_split(tmp_path):
    whole = candidates(write(tmp_path / "mine", ".jsonl"))
    for limit in (1, 2):
        kept = [d.row for d in candidates(tmp_path / "mine", limit=limit)]
        of_split = {split: [d.row for d in whole if d.split == split][:limit] for split in {d.split for d in whole}}
        assert kept == sorted(row for rows in of_split.values() for row in rows)


def test_a_table_whose_split_is_given_is_read_no_further_than_the_limit(tmp_path):
    table = tmp_path / "t.jsonl"
    row = {"image": "a.png", "question": "?", "options": ["x", "y"], "answer": "A", "split": "train"}
    table.write_text("".join(json.dumps(row) + "\n" for _ in range(9)) + "no JSON at all")
    found = candidates(tmp_path, table="t.jsonl", split="test", limit=4)
    assert [d.row for d in found] == [1, 2, 3, 4]


def test_a_recipe_s_split_is_every_row_s(tmp_path):
    assert [d.split for d in candidates(write(tmp_path / "mine", ".jsonl"), split="test") if not d.status] == [
        "test",
        "test",
    ]


def test_a_folder_without_a_table_says_what_to_write(tmp_path):
    with pytest.raises(InputError, match=r"questions\.jsonl is not there.* one question a row"):
        candidates(tmp_path)


def test_a_folder_whose_table_has_another_name_says_what_to_type(tmp_path):
    write(tmp_path / "mine", ".csv")
    (tmp_path / "mine/questions.csv").rename(tmp_path / "mine/data.csv")
    with pytest.raises(InputError, match="It has data") as error:
        candidates(tmp_path / "mine")
    (config,) = json.loads(str(error.value).partition("questions.sources=")[2].rstrip("'"))
    assert len(candidates(tmp_path / "mine", **config)) == 3


def test_columns_without_a_name_are_passed_over(tmp_path):
    write(tmp_path / "mine", ".csv")
    table = tmp_path / "mine/questions.csv"
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([f"{n}", *row, "", ""] if n else ["", *row, "", ""] for n, row in enumerate(rows))
    assert [d.gold for d in candidates(tmp_path / "mine")] == ["B", "A", ""]


def test_a_folder_with_two_tables_asks_which_is_meant(tmp_path):
    write(tmp_path / "mine", ".csv")
    write(tmp_path / "mine", ".jsonl")
    with pytest.raises(ConfigError, match="several tables"):
        candidates(tmp_path / "mine")
    assert len(candidates(tmp_path / "mine", table="questions.csv")) == 3


@pytest.mark.parametrize("settings", [{"table": "none.csv"}, {"images": "none.zip"}])
def test_a_table_or_images_that_are_not_there_are_one_clear_error(tmp_path, settings):
    with pytest.raises(InputError, match=r"none\.\w+ is not there"):
        candidates(write(tmp_path / "mine", ".jsonl"), **settings)


def test_matcha_is_never_for_training():
    with pytest.raises(ValueError, match="its split is test"):
        SourceConfig(reader="matcha", split="train")
