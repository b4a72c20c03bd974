import json
import re
import time
import tracemalloc
import unicodedata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.questions.candidates import Candidate
from pipelines.questions.sources import source
from pipelines.questions.sources.source import Source
from pipelines.questions.table_readers import by_suffix
from tests.pipelines.questions.test_matcha import asked, record


def read(path, data: bytes) -> list:
    path.write_bytes(data)
    return [row for _, row in by_suffix.read(str(path))]


def test_a_csv_table_is_read_with_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    data = '\ufeffa, b\r\n"x, ""y""","two\nlines"\r\n\r\nNone,NA\r\n'.encode()
    assert read(tmp_path / "t.csv", data) == [{"a": 'x, "y"', "b": "two\nlines"}, {"a": "None", "b": "NA"}]


def test_ragged_rows_are_reasons_in_their_place(tmp_path):
    table = read(tmp_path / "t.csv", b"a,b\n1\n1,2\n1,2,3\n")
    assert table == ["wrong_cell_count", {"a": "1", "b": "2"}, "wrong_cell_count"]


def test_rows_of_empty_cells_are_called_so(tmp_path):
    assert read(tmp_path / "t.csv", b"a;b\n1;2\n;\n;;\n") == [{"a": "1", "b": "2"}, "row_is_empty", "row_is_empty"]


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl"])
def test_a_giant_line_costs_bounded_memory_and_later_rows_still_count(tmp_path, monkeypatch, name):
    monkeypatch.setattr(by_suffix, "MAX_ROW_BYTES", 1 << 20)
    with (tmp_path / name).open("wb") as file:
        file.write(b"a,b\n" if name.endswith("csv") else b"{}\n")
        file.writelines(b"x" * (1 << 20) for _ in range(64))
        file.write(b"\n3,4\n" if name.endswith("csv") else b'\n{"a": "3"}\n')
    tracemalloc.start()
    table = [row for _, row in by_suffix.read(str(tmp_path / name))]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert table[-2] == "row_too_long"
    assert table[-1]["a"] == "3"
    assert peak < 16 << 20


def test_a_giant_line_in_a_row_that_is_never_closed_is_a_row_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(by_suffix, "MAX_ROW_BYTES", 1000)
    table = read(tmp_path / "t.csv", b'a,b\n1,"2\n' + b"x" * 3000 + b"\n3,4\n")
    assert table == ["quote_never_closed", "row_too_long", {"a": "3", "b": "4"}]


@pytest.mark.parametrize("row", [b'1,"x,y\n', b'1,"x"y,z\n'])
def test_a_stray_quote_never_makes_one_row_of_two(tmp_path, row):
    table = read(tmp_path / "t.csv", b"a,b,c\n" + row + b'2,"x",y\n3,x,y\n')
    assert table == ["quote_never_closed", {"a": "2", "b": "x", "c": "y"}, {"a": "3", "b": "x", "c": "y"}]


def test_a_quote_inside_an_unquoted_cell_is_text(tmp_path):
    assert read(tmp_path / "t.csv", b"a,b\n5\" long,3'\n") == [{"a": '5" long', "b": "3'"}]


def test_many_stray_quotes_end_in_bounded_time(tmp_path):
    started = time.perf_counter()
    table = read(tmp_path / "t.csv", b"a,b\n" + b'1,"x\n' * 20_001)
    assert table.count("quote_never_closed") == len(table) == 20_001
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("num_rows", [3, 60, 1000])
def test_a_quote_that_is_never_closed_costs_its_own_row_and_no_other(tmp_path, num_rows):
    lines = [f"{number},x" for number in range(num_rows)]
    lines[1] = '1,"x'
    table = read(tmp_path / "t.csv", ("a,b\n" + "\n".join(lines) + "\n").encode())
    assert [row["a"] if isinstance(row, dict) else row for row in table] == [
        "0", "quote_never_closed", *(str(number) for number in range(2, num_rows))
    ]  # fmt: skip


def test_the_secret_of_a_uri_whose_table_is_of_no_kind_is_not_repeated():
    with pytest.raises(InputError, match=r"s3://\*\*\*@bucket/t.exe is no table"):
        list(by_suffix.read("s3://key:very/secret@bucket/t.exe"))


@pytest.mark.parametrize("data", [b"", b"\n\n", b"a,a\n1,2\n", b",\n1,2\n"])
def test_a_csv_without_names_for_its_columns_is_no_table(tmp_path, data):
    with pytest.raises(InputError, match="does not name its columns"):
        read(tmp_path / "t.csv", data)


def test_nul_and_bytes_that_are_no_utf8_do_not_end_the_reading(tmp_path):
    table = read(tmp_path / "t.csv", b"a\n\x00x\n\xff\nlast\n")
    assert [row["a"] for row in table] == ["\x00x", "\udcff", "last"]


def test_jsonl_lines_are_objects_or_reasons_and_blank_ones_do_not_count(tmp_path):
    data = b'{"a": 1}\n\n[1]\nnot json\n\xff\n' + b"[" * 100_000 + b'\n{"a": "\\ud800"}\n?'
    table = read(tmp_path / "t.jsonl", data)
    assert table == [
        {"a": 1},
        "line_is_no_json",
        "line_is_no_json",
        "text_is_not_utf8",
        "line_is_no_json",
        {"a": "\ud800"},
        "line_is_no_json",
    ]


def test_a_giant_line_is_one_reason_and_the_next_one_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(by_suffix, "MAX_ROW_BYTES", 100)
    table = read(tmp_path / "t.jsonl", b'{"a": "' + b"x" * 950 + b'"}\n{"a": 2}\n' + b"y" * 150)
    assert table == ["row_too_long", {"a": 2}, "row_too_long"]


def test_the_number_of_a_row_is_its_place_in_the_table(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [number for number, _ in by_suffix.read(str(tmp_path / "t.jsonl"))] == [1, 3]


def test_parquet_of_any_types_is_read_as_plain_values(tmp_path):
    table = pa.table({"a": ["x", None], "options": [["p", "q"], []], "n": [1, 2], "d": pa.array([0, 1], pa.date32())})
    pq.write_table(table, tmp_path / "t.parquet")
    first, second = (row for _, row in by_suffix.read(str(tmp_path / "t.parquet")))
    assert (first["a"], first["options"], second["a"]) == ("x", ["p", "q"], None)


def test_what_a_parquet_cell_cannot_hold_costs_its_row_alone(tmp_path):
    text = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"\xffx"))
    pq.write_table(pa.table({"a": text}), tmp_path / "t.parquet")
    assert [row for _, row in by_suffix.read(str(tmp_path / "t.parquet"))] == ["row_unreadable", {"a": "x"}]


def test_a_giant_cell_that_a_parquet_file_repeats_for_a_few_bits_costs_bounded_memory(tmp_path):
    cells = pa.DictionaryArray.from_arrays(pa.array([0] * 2048, pa.int32()), pa.array(["x" * (1 << 18)]))
    pq.write_table(pa.table({"a": cells}), tmp_path / "t.parquet", store_schema=False)
    assert (tmp_path / "t.parquet").stat().st_size < 1 << 16
    before = pa.total_allocated_bytes()
    taken = [pa.total_allocated_bytes() - before for _ in by_suffix.read(str(tmp_path / "t.parquet"))]
    assert len(taken) == 2048
    assert max(taken) < 64 << 20  # all of them at once would be 512 MiB


def test_a_parquet_table_with_two_columns_of_one_name_is_refused(tmp_path):
    pq.write_table(pa.table([["x"], ["y"]], names=["a", "a"]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="does not name its columns"):
        list(by_suffix.read(str(tmp_path / "t.parquet")))


def test_a_damaged_parquet_file_is_one_clear_error(tmp_path):
    pq.write_table(pa.table({"a": ["x"] * 100}), tmp_path / "t.parquet")
    data = (tmp_path / "t.parquet").read_bytes()
    with pytest.raises(InputError, match="damaged, or no Parquet table"):
        read(tmp_path / "t.parquet", data[: len(data) // 2])


def test_a_file_that_is_no_table_says_what_can_be_read(tmp_path):
    with pytest.raises(InputError, match=r"Known: \.jsonl, \.csv, \.parquet"):
        list(by_suffix.read(str(tmp_path / "t.xlsx")))


OWN = json.dumps({"image": "i.png", "question": "?", "options": ["x", "y"], "answer": "A", "split": "train"})
PMC_HEADER = "Figure_path,Question,Answer,Choice A,Choice B,Choice C,Choice D,Answer_label"
PMC = 'PMC1_f1.jpg,"What, and\nwhy?",x, A:w , B:x , C:y , D:z ,B'
FORMS = {
    ("folder", ".jsonl"): ("", OWN),
    ("folder", ".csv"): ("image,question,options,answer,split", 'i.png,?,"[""x"", ""y""]",A,train'),
    ("pmc_vqa", ".csv"): (PMC_HEADER, PMC),
    ("pmc_vqa", ".jsonl"): ("", json.dumps(dict.fromkeys(PMC_HEADER.split(","), "x"))),
    ("matcha", ".jsonl"): ("", json.dumps(record(asked()))),
}


def spoiled(line: str) -> st.SearchStrategy[bytes]:
    """A good line with any bytes in the place of some of its own."""
    data = line.encode()
    places = st.integers(0, len(data))
    noise = st.binary(max_size=4) | st.sampled_from(
        [b'"', b",", b"\n", b"\r", b"\0", b"\xff", b"<|im_end|>", b"\xc2\xa0"]
    )
    return st.builds(lambda start, end, put: data[:start] + put + data[end:], places, places, noise)


@pytest.mark.parametrize(("reader", "suffix"), FORMS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_table_gives_a_draft_or_a_reason_for_every_row_that_is_read(tmp_path, reader, suffix, data):
    header, good = FORMS[reader, suffix]
    lines = data.draw(st.lists(st.just(good.encode()) | spoiled(good) | st.binary(max_size=20), max_size=6))
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"\n".join([header.encode()] * bool(header) + lines))
    table = Source(name="n", reader=reader, table=str(path), images=None, split=None)
    try:
        num_rows = len(list(by_suffix.read(str(path))))
        candidates = list(source.candidates(table))
    except InputError as error:  # a topic that is none, objects that have another table's names, or no text at all
        assert suffix == ".jsonl", error
        assert reader in {"pmc_vqa", "matcha"} or re.search("no column|no text|its list of rows", str(error)), error
        return
    assert len(candidates) == num_rows
    assert [Candidate.from_dict(row) for row in Candidate.table(candidates).to_pylist()] == candidates
    for candidate in candidates:
        assert bool(candidate.reason) == bool(candidate.status)
        assert candidate.status or candidate.gold in "ABCD"[: len(candidate.options)]
        for text in (candidate.text, *candidate.options) if not candidate.status else ():
            assert text
            assert "Cc" not in {unicodedata.category(character) for character in text.replace("\n", "")}
