"""What a teacher held likely comes back from the ledger and the table as it was told."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.logprobs import TopTokens, read_row, row_of, vocabulary_digest
from pipelines.records import TopLogprobs, tables


@given(st.data(), st.integers(0, 6), st.integers(1, 4))
def test_what_an_engine_tells_flatly_comes_back_place_by_place(data, num_written, num):
    places = [
        data.draw(st.lists(st.tuples(st.integers(0, 200_000), st.floats(-60, 0)), min_size=num, max_size=num))
        for _ in range(num_written)
    ]
    written = list(range(num_written))
    flat = [told for token, place in zip(written, places, strict=True) for told in ((token, -1.0), *place)]
    likeliest = TopTokens.of("v", written, [token for token, _ in flat], [each for _, each in flat], num)
    again = read_row(row_of("r", json.loads(json.dumps(likeliest.as_json()))))
    assert again.vocabulary == "v"
    assert again.written_T.tolist() == written
    assert again.tokens_TK.tolist() == [[token for token, _ in place] for place in places]
    wanted = np.array([[each for _, each in place] for place in places], np.float16).reshape(num_written, num)
    assert again.logprobs_TK.tolist() == wanted.tolist()


def test_a_table_of_them_is_read_as_it_was_written(tmp_path):
    likeliest = TopTokens.of("v", [3, 4], [3, 3, 9, 4, 8, 4], [-0.1, -0.1, -3, -2, -0.5, -2], 2)
    tables.write(tmp_path, TopLogprobs, [row_of("r", likeliest.as_json())])
    (row,) = tables.read(tmp_path, TopLogprobs)
    assert row.rationale_id == "r"
    assert read_row(row).tokens_TK.tolist() == [[3, 9], [8, 4]]


def test_a_vocabulary_is_its_tokens_by_number_in_whatever_order_they_are_told():
    assert vocabulary_digest({"a": 0, "b": 1}) == vocabulary_digest({"b": 1, "a": 0})
    assert vocabulary_digest({"a": 0, "b": 1}) != vocabulary_digest({"a": 1, "b": 0})
