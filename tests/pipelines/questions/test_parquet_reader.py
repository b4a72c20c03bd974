import os
import random
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.questions.table_readers import by_suffix, parquet_reader

MIB = 1 << 20


def repeated(num: int, text: str) -> pa.DictionaryArray:
    """One text, which a dictionary repeats for a few bits each time."""
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array([text]))


def middle(values: pa.Array) -> pa.ListArray:
    """Three lists, of which the second has all values but two."""
    return pa.ListArray.from_arrays(pa.array([0, 1, len(values) - 1, len(values)], pa.int32()), values)


def write(path, column: pa.Array, *, ids=None, **options) -> str:
    """A small file; without the schema that Arrow would keep, its types are those of any writer's."""
    table = pa.table({"id": ids or [str(number) for number in range(len(column))], "a": column})
    pq.write_table(table, path / "t.parquet", store_schema=False, compression="zstd", **options)
    return str(path / "t.parquet")


def shown(uri: str) -> list[str]:
    """Each row's id, or its reason."""
    return [row if isinstance(row, str) else row["id"] for _, row in by_suffix.read(uri)]


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def in_list():
    return middle(repeated(1_000_000, "x" * MIB))


def in_struct():
    return pa.StructArray.from_arrays([in_list()], ["within"])


def in_map():
    return pa.MapArray.from_arrays(
        pa.array([0, 1, 999_999, 1_000_000], pa.int32()), repeated(1_000_000, "key"), repeated(1_000_000, "x" * 65_536)
    )


def in_cell():
    return pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int32()), pa.array(["small", "x" * (60 * MIB)]))


def in_numbers():
    return middle(pa.array(np.zeros(5_000_000, np.int64)))


@pytest.mark.parametrize("bomb", [in_list, in_struct, in_map, in_cell, in_numbers])
def test_a_row_that_expands_without_bound_is_a_reason_and_its_neighbours_are_read(tmp_path, bomb):
    uri = write(tmp_path, bomb())
    assert Path(uri).stat().st_size < 64 << 10
    before = peak_mib()
    assert shown(uri) == ["0", "row_too_long", "2"]
    assert peak_mib() - before < 256  # of the parent; a child has a limit


@pytest.mark.slow
def test_what_cannot_be_decoded_in_the_memory_there_is_costs_its_row_group_alone(tmp_path):
    column = middle(pa.array(np.zeros(100_000_000, np.int64)))
    table = pa.table({"id": ["0", "1", "2"], "a": column})
    small = pa.table({"id": ["3", "4"], "a": pa.array([[1], [2]])}).cast(table.schema)
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema, store_schema=False) as writer:
        for each in (small, table, small):
            writer.write_table(each)
    assert (tmp_path / "t.parquet").stat().st_size < 64 << 10
    expected = ["3", "4", "0", "row_too_long", "row_group_too_large", "3", "4"]
    assert shown(str(tmp_path / "t.parquet")) == expected


def test_a_table_of_many_such_row_groups_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_reader, "_MAX_CHILDREN", 1)
    write(tmp_path, in_list())
    with pytest.raises(InputError, match="takes more than 768 MiB to decode"):
        shown(str(tmp_path / "t.parquet"))


def test_rows_that_cost_no_bytes_end(tmp_path):
    pq.write_table(pa.table({"id": pa.nulls(5_000_000, pa.string())}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match="more than its size can tell apart"):
        Counter(shown(str(tmp_path / "t.parquet")))


def test_rows_of_large_cells_are_read_a_few_at_a_time(tmp_path):
    data = random.Random(0)
    uri = write(tmp_path, pa.array([data.randbytes(MIB) for _ in range(64)]))
    before = peak_mib()
    assert shown(uri) == [str(number) for number in range(64)]
    assert peak_mib() - before < 256


def test_a_table_in_a_store_is_read_as_one_of_this_machine(tmp_path, bucket):
    from infra import storage

    uri = write(tmp_path, in_list())
    storage.upload(tmp_path, f"{bucket}/{tmp_path.name}")
    assert shown(f"{bucket}/{tmp_path.name}/t.parquet") == shown(uri)


def test_a_reader_that_stops_early_leaves_no_child(tmp_path):
    uri = write(tmp_path, pa.array(["x"] * 100_000), ids=[str(number) for number in range(100_000)])
    script = (
        "import multiprocessing, sys\nfrom pipelines.questions.table_readers import by_suffix as rows\n"
        "if __name__ == '__main__':\n"
        "    reading = rows.read(sys.argv[1]); next(reading); reading.close()\n"
        "    print(multiprocessing.active_children())\n"
    )
    (tmp_path / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", uri], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert done.stdout == "[]\n"


def test_a_table_with_more_columns_than_any_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(f"c{number}" for number in range(10_001)) + "\n")
    with pytest.raises(InputError, match="has 10001 columns"):
        list(by_suffix.read(str(tmp_path / "t.csv")))


@pytest.mark.parametrize("value", ["[]", "{}", '{"a":0}', "0", "[[]]"])
def test_a_json_line_of_millions_of_values_is_too_long_though_it_has_few_bytes(tmp_path, value):
    line = '{"a": [' + ",".join([value] * 1_500_000) + "]}"
    assert len(line) < by_suffix.MAX_ROW_BYTES
    (tmp_path / "t.jsonl").write_text(f'{line}\n{{"id": "1"}}\n')
    before = peak_mib()
    assert shown(str(tmp_path / "t.jsonl")) == ["row_too_long", "1"]
    assert peak_mib() - before < 128


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_bytes_in_a_parquet_file_s_place_give_rows_or_one_clear_error(tmp_path, data):
    uri = write(tmp_path, middle(pa.array(["p", "q", "r", "s"])))
    good = (tmp_path / "t.parquet").read_bytes()
    start = data.draw(st.integers(0, len(good)))
    spoiled = good[:start] + data.draw(st.binary(max_size=8)) + good[start + data.draw(st.integers(0, 8)) :]
    (tmp_path / "t.parquet").write_bytes(spoiled)
    try:
        found = list(by_suffix.read(uri))
    except InputError:
        return
    assert len(found) <= 16 * len(spoiled)
    assert all(isinstance(row, dict | str) for _, row in found)
