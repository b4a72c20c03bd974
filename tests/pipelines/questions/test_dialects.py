"""The same questions in many writings: whatever they are read from, they are the same, or a reason is given."""

import csv
import gzip
import io
import json
import tracemalloc
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, InputError
from pipelines.questions.sources import source
from pipelines.questions.sources.source import KNOWN, SourceConfig
from pipelines.questions.table_readers import by_suffix

QUESTIONS = [
    {"image": "1.png", "question": "Which, or; what?", "options": ["x, y", 'z "q"'], "answer": "B", "split": "train"},
    {"image": "2.png", "question": "Two\nlines?", "options": ["None", "NA", "é|ü"], "answer": "A", "split": "test"},
    {"image": "3.png", "question": "#5\tor 6?", "options": ["-1.50", "+1.5"], "answer": "A", "split": "validation"},
]
PLAIN = ["image", "question", "options", "answer", "split"]


def candidates(folder) -> list:
    return list(source.candidates(source.find(SourceConfig(), str(folder))))


def told(folder) -> list:
    """What is understood of each row, however it is written."""
    return [(d.images, d.text, d.options, d.gold, d.split, d.reason, d.exact_key) for d in candidates(folder)]


def put(folder, name, data: bytes):
    """A folder with this table alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    (folder / name).write_bytes(data)
    return folder


def lines_of(questions) -> bytes:
    return "".join(json.dumps(each) + "\n" for each in questions).encode()


def separated(questions, separator=",", header=PLAIN, end="\r\n", before="", options=json.dumps) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator, lineterminator=end)
    writer.writerow(header)
    for each in questions:
        writer.writerow([options(each[name]) if name == "options" else each[name] for name in PLAIN])
    return before + text.getvalue()


def zipped(name: str, data: bytes, *others: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for other in others:
            archive.writestr(other, "x")
        archive.writestr(name, data)
    return packed.getvalue()


@pytest.fixture
def plain(tmp_path):
    return told(put(tmp_path / "plain", "questions.jsonl", lines_of(QUESTIONS)))


TABLES = {
    "semicolons": ("questions.csv", separated(QUESTIONS, ";").encode(), "separated by semicolons"),
    "tabs": ("questions.tsv", separated(QUESTIONS, "\t").encode(), "separated by tabs"),
    "tabs in csv": ("questions.csv", separated(QUESTIONS, "\t", end="\n").encode(), "separated by tabs"),
    "bars": ("questions.csv", separated(QUESTIONS, "|").encode(), "separated by bars"),
    "sep line": ("questions.csv", separated(QUESTIONS, ";", before="sep=;\r\n").encode(), "first line says: ';'"),
    "Excel's Unicode text": ("questions.csv", separated(QUESTIONS, "\t").encode("utf-16"), "decoded from UTF-16"),
    "UTF-16 big": ("questions.csv", b"\xfe\xff" + separated(QUESTIONS).encode("utf-16-be"), "decoded from UTF-16"),
    "UTF-16 unmarked": ("questions.csv", separated(QUESTIONS).encode("utf-16-le"), "decoded from UTF-16-LE"),
    "UTF-32": ("questions.csv", separated(QUESTIONS).encode("utf-32"), "decoded from UTF-32"),
    "UTF-8 marked": ("questions.csv", separated(QUESTIONS).encode("utf-8-sig"), ""),
    "sep line, marked": ("questions.csv", separated(QUESTIONS, before="sep=,\n").encode("utf-8-sig"), "says: ','"),
    "remarks": ("questions.csv", separated(QUESTIONS, before="# made, by\n\n#2; x\n").encode(), "2 lines with #"),
    "other case": ("questions.csv", separated(QUESTIONS, header=[f" {n.upper()} " for n in PLAIN]).encode(), ""),
    "Python's lists": ("questions.csv", separated(QUESTIONS, options=repr).encode(), ""),
    "JSON list": ("questions.json", json.dumps(QUESTIONS, indent=1).encode(), "read as the JSON list"),
    "JSON list on a line": ("questions.json", json.dumps(QUESTIONS).encode(), "read as the JSON list"),
    "JSON list called lines": ("questions.jsonl", json.dumps(QUESTIONS).encode("utf-16"), "read as the JSON list"),
    "wrapped": ("questions.json", json.dumps({"v": 1, "data": QUESTIONS, "n": [1]}).encode(), "the JSON list data"),
    "wrapped, indented": ("questions.json", json.dumps({"rows": QUESTIONS}, indent=2).encode(), "the JSON list rows"),
    "lines called JSON": ("questions.json", lines_of(QUESTIONS), ""),
    "lines in UTF-16": ("questions.jsonl", lines_of(QUESTIONS).decode().encode("utf-16"), "decoded from UTF-16"),
    "gzip": ("questions.csv.gz", gzip.compress(separated(QUESTIONS).encode()), "unpacked from .gz"),
    "gzip of lines": ("questions.jsonl.gz", gzip.compress(lines_of(QUESTIONS)), "unpacked from .gz"),
    "zip": ("questions.zip", zipped("a/t.csv", separated(QUESTIONS, ";").encode(), "a/x.txt"), "unpacked from .zip"),
    "zip of a Mac": ("questions.csv.zip", zipped("t.csv", separated(QUESTIONS).encode(), "__MACOSX/._t.csv"), "from"),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_read_alike_however_it_is_written_and_what_was_done_is_said(tmp_path, plain, name):
    file, data, done = TABLES[name]
    folder = put(tmp_path / "t", file, data)
    found = source.find(SourceConfig(), str(folder))
    assert told(folder) == plain
    assert done in "; ".join(source.format_notes(found))
    assert bool(done) == bool(source.format_notes(found))


@pytest.mark.parametrize(
    ("file", "data", "message"),
    [
        (
            "questions.csv",
            b"img,q,options,answer\n1,2,3,4\n",
            r"no column image \(or images\), question, split. Its columns are: img, q, options, answer. A table",
        ),
        ("questions.jsonl", b'{"img": 1}\n{"q": 2}\n', "no column image .* Its columns are: img. A"),
        ("questions.jsonl", lines_of(QUESTIONS).replace(b"options", b"choices"), r"no column options \(or option_A"),
        ("questions.jsonl", b"version https://git-lfs.github.com/spec/v1\noid x\n", "is a pointer of Git LFS"),
        ("questions.csv", b"<!DOCTYPE html>\n<html>", "is a web page"),
        ("questions.csv", b"a;b,c\n1;2,3\n", "can be cut at commas or semicolons. .* sep=,"),
        ("questions.csv", b"image,option a,option-a\n1,2,3\n", "no column question, answer, split"),
        ("questions.csv", zipped("t.csv", b"x"), "is a zip or a spreadsheet by its first bytes"),
        ("questions.csv", gzip.compress(b"x", mtime=0), "is a gzip by its first bytes"),
        ("questions.xlsx", b"PK", "is a spreadsheet, which may hold 0.10 as 0.1 .* \"CSV UTF-8\""),
        ("questions.zip", zipped("t.csv", b"x", "u.csv"), "has to hold one table .* holds 2: u.csv, t.csv"),
        ("questions.zip", zipped("t.txt", b"x"), "holds 0: t.txt"),
        ("questions.zip", b"no zip", "cannot be unpacked"),
        ("questions.csv.gz", gzip.compress(separated(QUESTIONS).encode())[:-20], "cannot be unpacked"),
        ("questions.csv.gz", gzip.compress(b"image,question\n" + b"x" * (65 << 20)), "more than 200 times its size"),
        ("questions.json", json.dumps(QUESTIONS).encode()[:-1], "ends before its list of rows does"),
        ("questions.json", json.dumps(QUESTIONS).encode() * 2, "goes on behind its list"),
        ("questions.json", json.dumps({"a": QUESTIONS, "b": QUESTIONS}).encode(), "has several lists, a, b"),
        ("questions.json", json.dumps(QUESTIONS[0], indent=1).encode(), "spreads its first object over several lines"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read_with_certainty_is_one_message(tmp_path, file, data, message):
    folder = put(tmp_path / "t", file, data)
    with pytest.raises((InputError, ConfigError), match=message):
        candidates(folder)


def test_an_element_of_a_list_that_is_no_row_costs_itself_alone(tmp_path):
    text = '[{"a": "]}\\"["}, 5, {"b": NaN}, {bad}, [{"x": 1}], "{", {"c": {"d": [1]}},]'
    path = put(tmp_path / "t", "t.json", text.encode()) / "t.json"
    found = [row for _, row in by_suffix.read(str(path))]
    assert found[0] == {"a": ']}"['}
    assert [row for row in found if isinstance(row, str)] == ["line_is_no_json"] * 4
    assert found[-1] == {"c": {"d": [1]}}


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_a_list_is_read_alike_wherever_its_portions_end(tmp_path, monkeypatch, chunk):
    text = json.dumps([{"a": 'x\\"]},{', "b": [{"c": "é\\\\"}]}, {}], ensure_ascii=False)
    path = put(tmp_path / "t", "t.json", text.encode()) / "t.json"
    whole = list(by_suffix.read(str(path)))
    monkeypatch.setattr(by_suffix.json_reader, "_CHUNK", chunk)
    monkeypatch.setattr(by_suffix.json_reader, "_list_in", lambda *_: by_suffix.json_reader._Place(1, ""))
    assert list(by_suffix.read(str(path))) == whole == list(enumerate(json.loads(text), 1))


def test_a_giant_element_of_a_list_costs_itself_and_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(by_suffix, "MAX_ROW_BYTES", 1 << 20)
    with (tmp_path / "t.json").open("w") as file:
        file.write('[{"a": "1"}, {"a": "')
        file.writelines("x" * (1 << 20) for _ in range(64))
        file.write('"}, {"a": "3"}]')
    tracemalloc.start()
    found = [row for _, row in by_suffix.read(str(tmp_path / "t.json"))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == [{"a": "1"}, "row_too_long", {"a": "3"}]
    assert peak < 24 << 20


@pytest.mark.slow
def test_a_long_list_is_streamed(tmp_path):
    one = json.dumps(QUESTIONS[0] | {"caption": "x" * 1000})
    with (tmp_path / "questions.json").open("w") as file:
        file.write('{"data": [' + one)
        file.writelines(f",\n{one}" for _ in range(50_000))
        file.write("]}")
    tracemalloc.start()
    number = sum(1 for _ in by_suffix.read(str(tmp_path / "questions.json"), KNOWN))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 50_001
    assert peak < 16 << 20  # of 60 MB


def test_a_line_with_a_hash_that_names_columns_is_no_remark(tmp_path):
    header = ["#", *PLAIN]
    data = separated(QUESTIONS).splitlines(keepends=True)
    rest = "".join(data[1:]).replace("1.png", "7,1.png").replace("2.png", "7,2.png").replace("3.png", "7,3.png")
    found = candidates(put(tmp_path / "t", "questions.csv", (",".join(header) + "\n" + rest).encode()))
    assert [candidate.gold for candidate in found] == ["B", "A", "A"]


def test_parquet_says_the_same_with_numbers_as_with_texts(tmp_path, plain):
    put(tmp_path / "t", "x", b"")
    (tmp_path / "t/x").unlink()
    pq.write_table(pa.Table.from_pylist(QUESTIONS), tmp_path / "t/questions.parquet")
    assert told(tmp_path / "t") == plain
    numbers = [
        QUESTIONS[0] | {"options": [0.5, 2.0], "answer": 2.0},
        QUESTIONS[1] | {"options": [3.0, 4.0], "answer": 4.0},
    ]
    pq.write_table(pa.Table.from_pylist(numbers), tmp_path / "t/questions.parquet")
    assert [(d.options, d.gold) for d in candidates(tmp_path / "t")] == [(("0.5", "2.0"), "B"), (("3.0", "4.0"), "B")]
    column = pa.array([[0.1, 0.2]], pa.list_(pa.float32()))
    table = pa.Table.from_pylist(QUESTIONS[:1]).set_column(2, "options", column)
    pq.write_table(table, tmp_path / "t/questions.parquet")
    assert [d.reason for d in candidates(tmp_path / "t")] == ["options_are_no_list"]  # 0.1 of 32 bits is no 0.1


# The same questions, drawn at random, in a writing that is drawn at random.

SIGNS = "abzXY 01.,;|\t\"'#=[]{}:\\()-+é漢\u0301\u2028/"
TEXT = st.text(SIGNS, max_size=12)


@st.composite
def question(draw) -> dict:
    number = draw(st.integers(2, 5))
    return {
        "image": f"{draw(st.text('ab é漢', max_size=3))}x.png",
        "question": f"Q{draw(TEXT)}",
        "options": [f"{draw(TEXT)}o{place}" for place in range(number)],
        "answer": draw(st.sampled_from("ABCDE"[:number])),
        "split": draw(st.sampled_from(["train", "validation", "test"])),
    }


def spelled(draw, name: str) -> str:
    return draw(st.sampled_from([name, name.upper(), name.title(), f" {name} "]))


@st.composite
def writing(draw, questions) -> tuple[str, bytes]:
    form = draw(st.sampled_from(["separated", "columns", "list", "wrapped", "lines"]))
    indent = draw(st.sampled_from([None, 1]))
    ascii_only = draw(st.booleans())
    if form in ("separated", "columns"):
        separator = draw(st.sampled_from(",;\t|"))
        before = draw(st.sampled_from(["", f"sep={separator}\n", "# a remark\n", "#\n\n# two; of, them\n"]))
        names = [spelled(draw, name) for name in PLAIN]
        end = draw(st.sampled_from(["\n", "\r\n"]))
        quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
        text = io.StringIO()
        writer = csv.writer(text, delimiter=separator, lineterminator=end, quoting=quoting)
        if form == "columns":
            letters = [draw(st.sampled_from([f"option_{x}", f"Option {x}", f"OPTION-{x.lower()}"])) for x in "ABCDE"]
            writer.writerow([*names[:2], *letters, *names[3:]])
            for q in questions:
                options = [*q["options"], *[""] * (5 - len(q["options"]))]
                writer.writerow([q["image"], q["question"], *options, q["answer"], q["split"]])
        else:
            writer.writerow(names)
            for q in questions:
                writer.writerow([json.dumps(q[name]) if name == "options" else q[name] for name in PLAIN])
        name, text = draw(st.sampled_from(["questions.csv", "questions.tsv"])), before + text.getvalue()
    elif form == "lines":
        name, text = "questions.jsonl", "".join(json.dumps(q, ensure_ascii=ascii_only) + "\n" for q in questions)
    else:
        held = questions if form == "list" else {"about": 'a "list" [of] {rows}', "rows": questions, "tags": ["x"]}
        name, text = "questions.json", json.dumps(held, indent=indent, ensure_ascii=ascii_only)
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"])))
    packed = draw(st.sampled_from(["", ".gz", ".zip"]))
    data = {"": lambda: data, ".gz": lambda: gzip.compress(data), ".zip": lambda: zipped(name, data)}[packed]()
    return name + packed, data


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_same_questions_read_back_equal_in_every_writing(tmp_path, data):
    questions = data.draw(st.lists(question(), min_size=1, max_size=4))
    expected = told(put(tmp_path / "plain", "questions.jsonl", lines_of(questions)))
    file, written = data.draw(writing(questions))
    assert told(put(tmp_path / "t", file, written)) == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_table_that_is_spoiled_anywhere_is_rows_and_reasons_or_one_message(tmp_path, data):
    name, table, _ = TABLES[data.draw(st.sampled_from(sorted(TABLES)))]
    start, stop = (data.draw(st.integers(0, len(table))) for _ in range(2))
    spoiled = table[:start] + data.draw(st.binary(max_size=6)) + table[stop:]
    try:
        found = candidates(put(tmp_path / "t", name, spoiled))
    except InputError as error:
        assert "questions." in str(error)
        assert len(str(error)) < 1000
        return
    assert all(candidate.status or candidate.gold in "ABC"[: len(candidate.options)] for candidate in found)
