import json
import resource
import signal
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ArtifactError
from pipelines.teaching import ledger
from pipelines.teaching.ledger import Ledger, Writer, attempts, letter_name
from tests.pipelines.teaching.fixtures import TEACHER, attempt, write

A, B, C = "a" * 32, "b" * 32, "c" * 32


def known(folder, *ids):
    """What the ledger gives back for ids."""
    book = Ledger(folder)
    return book.load(ids, book.look_up(ids))


def test_what_was_written_is_found_by_its_request_and_nothing_else_is(tmp_path):
    write(tmp_path, [attempt(A, text="α"), attempt(B, letter=None)])
    assert known(tmp_path, C, A, B) == [None, attempt(A, text="α"), attempt(B, letter=None)]
    found = Ledger(tmp_path).look_up([A, B, C])
    assert found.attempts.tolist() == [1, 1, 0]
    assert [letter_name(code) for code in found.letter] == ["B", None, None]


def test_an_empty_ledger_knows_nothing(tmp_path):
    assert len(Ledger(tmp_path)) == 0
    assert known(tmp_path, A) == [None]


def test_of_several_attempts_the_first_usable_one_counts_and_else_the_last(tmp_path):
    bad, worse = attempt(A, fate="failed", error="truncated"), attempt(A, fate="failed", error="no_answer", seed=2)
    write(tmp_path, [bad, worse, attempt(B, fate="failed", error="x"), attempt(B, seed=5)], "e-000")
    assert known(tmp_path, A) == [worse]
    write(tmp_path, [attempt(A, seed=3), attempt(A, seed=4)], "e-001")
    assert known(tmp_path, A, B) == [attempt(A, seed=3), attempt(B, seed=5)]
    assert Ledger(tmp_path).look_up([A]).attempts.tolist() == [4]


def test_ids_that_share_their_first_half_are_not_mistaken_for_each_other(tmp_path):
    twin = A[:16] + "f" * 16
    write(tmp_path, [attempt(A)])
    assert known(tmp_path, twin) == [None]


@pytest.mark.parametrize(
    "torn",
    [
        b'{"id": "aaa',
        b"\0" * 40,
        b"\n\n",
        b"[1]\n",
        b'{"id": 3}\n',
        b"\xff\xfe\n",
        json.dumps({"id": A}).encode() + b"\n",
    ],
)
def test_a_torn_line_anywhere_counts_as_nothing_and_hides_no_whole_one(tmp_path, torn):
    write(tmp_path, [attempt(A)])
    path = tmp_path / "e-000.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert known(tmp_path, A, B) == [attempt(A), None]
    write(tmp_path, [attempt(B)], "e-001")
    assert known(tmp_path, A, B) == [attempt(A), attempt(B)]


def test_a_ledger_of_before_there_were_top_logprobs_is_read(tmp_path):
    write(tmp_path, [attempt(A)])
    path = tmp_path / "e-000.jsonl"
    entry = json.loads(path.read_text())
    assert entry.pop("top_logprobs", 0) is None
    path.write_text(json.dumps(entry) + "\n")
    assert known(tmp_path, A) == [attempt(A)]


@given(cut=st.integers(0, 10_000))
def test_a_ledger_cut_at_any_byte_holds_exactly_the_lines_that_were_whole(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("ledger")
    ids = [f"{number:032x}"[::-1] for number in range(1, 21)]
    write(folder, [attempt(each) for each in ids])
    path = folder / "e-000.jsonl"
    whole = path.read_bytes()[: cut % (path.stat().st_size + 1)]
    path.write_bytes(whole)
    assert [a is not None for a in known(folder, *ids)] == [n < whole.count(b"\n") for n in range(20)]


@contextmanager
def a_full_disk(at_bytes):
    """Files of this process cannot grow beyond so many bytes; the write fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (at_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_stops_with_a_clear_error_and_leaves_no_half_line(tmp_path):
    writer = Writer(tmp_path / "e-000.jsonl")
    ids = [f"{number:032x}"[::-1] for number in range(1, 100)]
    done = 0
    with a_full_disk(4096), pytest.raises(ArtifactError, match=r"e-000\.jsonl.*teach\.ledger=PATH"):
        for each in ids:
            writer.add(attempt(each))
            done += 1
    assert 0 < done < len(ids)
    assert (tmp_path / "e-000.jsonl").read_bytes().endswith(b"\n")
    writer.add(attempt(ids[done]))  # there is room again
    assert [a is not None for a in known(tmp_path, *ids[: done + 2])] == [True] * (done + 1) + [False]


def test_a_request_is_settled_by_a_usable_answer_or_enough_attempts(tmp_path):
    write(
        tmp_path,
        [
            attempt(A),
            attempt(B, fate="failed", error="truncated", finish_reason="length"),
            attempt(C, fate="failed", error="refused_by_engine", finish_reason="error"),
        ],
    )
    book = Ledger(tmp_path)
    found = book.look_up([A, B, C, "d" * 32])

    def settled(max_attempts, *, greedy=False):
        return [found.is_settled(place, max_attempts, greedy=greedy) for place in range(4)]

    assert settled(1) == [True, True, True, False]
    assert settled(2) == [True, False, False, False]
    # Greedily the same text would be written again, while an engine may fail once and not twice.
    assert settled(2, greedy=True) == [True, True, False, False]


def test_each_teacher_has_a_folder_that_says_who_it_is(tmp_path):
    folder = ledger.folder_of(tmp_path, TEACHER)
    assert json.loads((folder / "teacher.json").read_text())["name"] == "t"
    assert ledger.folder_of(tmp_path, TEACHER) == folder
    assert list(attempts(folder / "teacher.json")) == []


def test_a_ledger_that_cannot_be_made_is_said_with_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file"):
        ledger.folder_of(tmp_path / "file", TEACHER)


@pytest.mark.parametrize("error", ["ClientConnectorError", "status_503", "timed_out", "engine_error", "batch_expired"])
def test_what_was_an_engine_s_or_a_network_s_trouble_uses_up_no_attempt_of_later_runs(tmp_path, error):
    write(tmp_path, [attempt(A, fate="failed", error=error, finish_reason="error", text="", letter=None)] * 5)
    found = Ledger(tmp_path).look_up([A])
    assert (found.attempts.tolist(), found.spent.tolist()) == ([5], [0])
    assert not found.is_settled(0, 2, greedy=False)


@pytest.mark.parametrize("letter", ["AB", "", "\u0100", 7, ["A"]])
def test_a_line_whose_letter_is_none_counts_as_nothing(tmp_path, letter):
    write(tmp_path, [attempt(A, letter=letter), attempt(B)])
    assert known(tmp_path, A, B) == [None, attempt(B)]
