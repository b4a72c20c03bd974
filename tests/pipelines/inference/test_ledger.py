import dataclasses
import json
import os
import resource
import signal
import socket
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import ArtifactError
from pipelines.inference import jsonl, ledger
from pipelines.inference.backends.backend import Completion
from pipelines.inference.ledger import Ledger, Writer, attempts, letter_name
from pipelines.inference.logprobs import TopTokens
from pipelines.inference.worker import judged
from pipelines.teaching.requests import requests_of
from tests.pipelines.fixtures import question
from tests.pipelines.teaching.fixtures import attempt, config, own, write

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
    bad, worse = attempt(A, status="failed", error="truncated"), attempt(A, status="failed", error="no_answer", seed=2)
    write(tmp_path, [bad, worse, attempt(B, status="failed", error="x"), attempt(B, seed=5)], "e-000")
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
            attempt(B, status="failed", error="truncated", finish_reason="length"),
            attempt(C, status="failed", error="refused_by_engine", finish_reason="error"),
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


def test_each_model_has_a_folder_that_says_what_decided_its_answers(tmp_path):
    how = own(config())
    how = dataclasses.replace(
        how, model=dataclasses.replace(how.model, digest="d", base_digest="b", revision="r", engine={"dtype": "half"})
    )
    folder = ledger.folder_of(tmp_path, how)
    assert json.loads((folder / "model.json").read_text()) == {
        "form": 2,
        "model": {"name": "t", "digest": "d", "base_digest": "b", "revision": "r", "engine": {"dtype": "half"}},
        "sampling": how.sampling.identity(),
    }
    assert ledger.folder_of(tmp_path, how) == folder
    assert list(attempts(folder / "model.json")) == []


def test_a_ledger_of_an_older_form_is_refused_with_one_line_that_says_what_to_do(tmp_path):
    old = tmp_path / "0123456789abcdef-0123456789abcdef"
    old.mkdir()
    (old / "teacher.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"another version.*Move it away.*--set teach\.ledger=PATH") as refused:
        ledger.folder_of(tmp_path, own(config()))
    assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == [old]


def test_a_ledger_of_a_form_to_come_is_refused(tmp_path):
    about = ledger.folder_of(tmp_path, own(config())) / "model.json"
    about.write_text(about.read_text().replace('"form": 2', '"form": 3'))
    with pytest.raises(ArtifactError, match="another version"):
        ledger.folder_of(tmp_path, own(config()))


@given(st.lists(st.floats() | st.sampled_from([-3.4028e38, -1e308, 1e30, -1e30]), max_size=3))
def test_an_answer_with_any_logprobs_is_read_back_as_it_was_written(tmp_path_factory, logprobs):
    folder = tmp_path_factory.mktemp("ledger")
    (request,) = requests_of(question(), config(), own(config()), {})
    said = Completion(text="Answer: cast (B)", finish_reason="stop", num_prompt_tokens=1, num_output_tokens=1)
    made = judged(request, 1, dataclasses.replace(said, logprobs=logprobs), question().options)
    write(folder, [made])
    assert known(folder, request.id) == [made]


def test_a_ledger_that_cannot_be_made_is_said_with_its_place(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="file"):
        ledger.folder_of(tmp_path / "file", own(config()))


@pytest.mark.parametrize("error", ["not_reachable", "status_503", "timed_out", "engine_error", "batch_expired"])
def test_what_was_an_engine_s_or_a_network_s_trouble_uses_up_no_attempt_of_later_runs(tmp_path, error):
    write(tmp_path, [attempt(A, status="failed", error=error, finish_reason="error", text="", letter=None)] * 5)
    found = Ledger(tmp_path).look_up([A])
    assert (found.attempts.tolist(), found.spent.tolist()) == ([5], [0])
    assert not found.is_settled(0, 2, greedy=False)


@pytest.mark.parametrize("letter", ["AB", "", "\u0100", 7, ["A"]])
def test_a_line_whose_letter_is_none_counts_as_nothing(tmp_path, letter):
    write(tmp_path, [attempt(A, letter=letter), attempt(B)])
    assert known(tmp_path, A, B) == [None, attempt(B)]


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "A" * 32},
        {"id": A[:31]},
        {"id": 7},
        {"status": "accepted"},
        {"status": None},
        {"seed": "1"},
        {"seed": True},
        {"seed": -1},
        {"seed": 10**30},
        {"text": 3},
        {"text": None},
        {"thoughts": ["x"]},
        {"finish_reason": None},
        {"finish_reason": "error"},
        {"num_output_tokens": 1.5},
        {"num_prompt_tokens": -1},
        {"num_stray_tokens": 1 << 50},
        {"mean_logprob": float("nan")},
        {"min_logprob": float("-inf")},
        {"mean_logprob": "0"},
        {"error": 1},
        {"top_logprobs": []},
        {"top_logprobs": {"vocabulary": "v"}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_a_line_with_a_field_that_is_not_what_it_should_be_counts_as_nothing_and_is_said(tmp_path, capsys, changes):
    write(tmp_path, [attempt(A), attempt(B)])
    path = tmp_path / "e-000.jsonl"
    first, second = path.read_text().splitlines()
    path.write_text(json.dumps(json.loads(first) | changes) + "\n" + second + "\n")
    assert known(tmp_path, A, B) == [None, attempt(B)]
    assert capsys.readouterr().err == f"ledger: {path} has 1 line(s) that hold no attempt, which are passed over\n"


LIKELIEST = TopTokens.of("v", [5, 6], [5, 5, 7, 6, 6, 8], [-0.1, -0.1, -2, -0.2, -0.2, -3], 2).as_json()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_top": 3},
        {"num_top": 0},
        {"num_top": True},
        {"vocabulary": None},
        {"written": "AAAA"},
        {"tokens": "?"},
        {"tokens": 3},
        {"logprobs": LIKELIEST["tokens"]},
        {"more": 1},
    ],
    ids=str,
)
def test_likeliest_tokens_that_do_not_fit_each_other_count_as_nothing(tmp_path, changes):
    write(tmp_path, [attempt(A, top_logprobs=LIKELIEST), attempt(B, top_logprobs={**LIKELIEST, **changes})])
    assert known(tmp_path, A, B) == [attempt(A, top_logprobs=LIKELIEST), None]


def test_deep_nesting_costs_its_line_alone(tmp_path):
    write(tmp_path, [attempt(A), attempt(B)])
    path = tmp_path / "e-000.jsonl"
    first, second = path.read_bytes().splitlines(keepends=True)
    deep = b"[" * 100_000 + b"]" * 100_000
    in_a_field = first.replace(b'"top_logprobs": null', b'"top_logprobs": {"written": ' + deep + b"}")
    path.write_bytes(deep + b"\n" + in_a_field + second)
    assert known(tmp_path, A, B) == [None, attempt(B)]


def test_a_line_longer_than_any_answer_is_not_held_and_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "LONGEST_LINE", 4096)
    write(tmp_path, [attempt(A, text="x" * 9000), attempt(B)])
    assert known(tmp_path, A, B) == [None, attempt(B)]


def test_what_is_no_plain_file_in_a_ledger_costs_one_line_and_is_never_opened(tmp_path, capsys):
    write(tmp_path / "l", [attempt(A)])
    write(tmp_path / "elsewhere", [attempt(B)])
    (tmp_path / "l/a.jsonl").mkdir()
    os.mkfifo(tmp_path / "l/b.jsonl")
    (tmp_path / "l/c.jsonl").symlink_to(tmp_path / "elsewhere/e-000.jsonl")
    (tmp_path / "l/d.jsonl").symlink_to("d.jsonl")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(tmp_path / "l/f.jsonl"))
        assert known(tmp_path / "l", A, B) == [attempt(A), None]
    strangers = [tmp_path / f"l/{name}.jsonl" for name in "abcdf"]
    said = capsys.readouterr().err.splitlines()
    assert said == [f"ledger: {stranger} is no plain file, and is passed over" for stranger in strangers]
    assert ledger.files(tmp_path / "l") == [tmp_path / "l/e-000.jsonl"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([A, "answered", "B", "stop"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
FIELDS = [field.name for field in dataclasses.fields(ledger.Attempt)]


@given(changes=st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), JSON, max_size=4), noise=st.binary())
def test_any_line_is_an_attempt_whose_fields_have_their_types_or_nothing(tmp_path_factory, changes, noise):
    folder = tmp_path_factory.mktemp("ledger")
    entry = dataclasses.asdict(attempt(A)) | changes
    (folder / "e.jsonl").write_bytes(json.dumps(entry).encode() + b"\n" + noise + b"\n")
    for found in attempts(folder / "e.jsonl"):
        for field in dataclasses.fields(found):
            value = getattr(found, field.name)
            assert value is None or type(value) in TYPES[field.name], field.name
        assert 0 <= jsonl.key_of(found.id) < 1 << 64
    assert len(Ledger(folder)) <= 2


TYPES = dict.fromkeys(FIELDS, (str,)) | {
    **dict.fromkeys(["seed", "num_prompt_tokens", "num_output_tokens", "num_stray_tokens"], (int,)),
    **dict.fromkeys(["mean_logprob", "min_logprob"], (float,)),
    "top_logprobs": (dict,),
}
