import base64
import copy
import json
import random
import re
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import ArtifactError, ConfigError, InputError
from infra.progress import Progress
from pipelines.images import image_bytes
from pipelines.inference import ledger
from pipelines.inference.ledger import Ledger
from pipelines.recipes import POCKET_TEACHER
from pipelines.records import Status
from pipelines.teaching import batch
from pipelines.teaching.batch import Teaching
from tests.pipelines.fixtures import question
from tests.pipelines.teaching.fixtures import config, lines, many, put_many, write

PROGRESS = Progress("batch")
TEXT = "It is round, and bright at its border.\nAnswer: cast (B)"


def teaching(tmp_path, asked=None, *, without=(), **changes):
    put_many(tmp_path / "runs" / "r", many(3) if asked is None else asked, without=without)
    return Teaching.of(config(**changes), tmp_path / "runs" / "r")


def written(made, out, **limits):
    """The requests that are written, by file; and what is counted."""
    paths, counts = batch.export_requests(made, out, PROGRESS, **limits)
    return [[json.loads(line) for line in path.read_text().splitlines()] for path in paths], counts


def answer(request, text=TEXT, finish_reason="stop", **changes):
    """A result as a provider writes it."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish_reason}
    body = {"choices": [choice], "usage": {"prompt_tokens": 50, "completion_tokens": 20}}
    response = {"status_code": 200, "request_id": "r", "body": body}
    return {"id": "b", "custom_id": request["custom_id"], "response": response, "error": None} | changes


def results(path, answers):
    path.write_text("".join(f"{json.dumps(each)}\n" for each in answers))
    return path


def num_open(made, tmp_path):
    return made.request_set.write_plan(Ledger(made.attempts), tmp_path / "plan.arrow").num_open


def test_what_is_written_answered_and_read_leaves_the_stage_nothing_to_ask(tmp_path):
    made = teaching(tmp_path, many(40), num_rationales=2, grounding_share=0.5, rationalise=True)
    (requests,), counts = written(made, tmp_path / "requests.jsonl")
    answers = [answer(request) for request in requests]
    random.Random(0).shuffle(answers)
    half = len(answers) // 2
    one, two = results(tmp_path / "1.jsonl", answers[:half]), results(tmp_path / "2.jsonl", answers[half:])
    read = batch.import_results(made, [one, two], PROGRESS)
    assert counts["written"] == len(requests) == read["answered"] > 80
    assert num_open(made, tmp_path) == 0
    found = list(made.request_set.answers(Ledger(made.attempts)))
    assert {(each.attempt.status, each.attempt.text, each.num_attempts) for each in found} == {("answered", TEXT, 1)}
    assert {(each.attempt.num_prompt_tokens, each.attempt.num_output_tokens) for each in found} == {(50, 20)}
    assert written(made, tmp_path / "requests.jsonl") == ([], {})
    assert not (tmp_path / "requests.jsonl").exists()


def test_a_request_is_what_an_endpoint_is_sent_with_the_image_in_its_sealed_bytes(tmp_path):
    made = teaching(tmp_path, many(1), temperature=0.5, top_k=7)
    (((line),),), _ = written(made, tmp_path / "requests.jsonl")
    (chunk,) = made.request_set.chunks()
    ((_, (request,)),) = chunk
    body = line.pop("body")
    assert line == {"custom_id": f"{request.id}-0", "method": "POST", "url": "/v1/chat/completions"}
    assert (body["model"], body["seed"], body["temperature"], body["top_k"]) == (
        POCKET_TEACHER,
        request.seed(0),
        0.5,
        7,
    )
    image, text = body["messages"][0]["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(data) == image_bytes.read(str(made.questions / request.images[0]))
    assert text == {"type": "text", "text": request.prompt}


def test_likeliest_tokens_are_not_asked_for_in_files(tmp_path):
    with pytest.raises(ConfigError, match="top_logprobs is 8, and a file of answers tells no token's number"):
        Teaching.of(config(top_logprobs=8), tmp_path)


def test_a_file_that_is_read_twice_adds_nothing(tmp_path):
    made = teaching(tmp_path)
    (requests,), _ = written(made, tmp_path / "requests.jsonl")
    said = [answer(requests[0]), answer(requests[1], "Hm."), answer(requests[2], error={"code": "batch_expired"})]
    path = results(tmp_path / "r.jsonl", said)
    assert batch.import_results(made, [path], PROGRESS) == {
        "answered": 1,
        "failed: no_answer": 1,
        "failed: batch_expired": 1,
    }
    before = lines(made.attempts)
    assert batch.import_results(made, [path], PROGRESS) == {"answered before": 1, "read before": 2}
    assert batch.import_results(made, [path, path], PROGRESS) == {"answered before": 2, "read before": 4}
    assert lines(made.attempts) == before


def test_what_was_not_answered_well_is_written_again_with_another_seed_as_often_as_the_recipe_says(tmp_path):
    made = teaching(tmp_path, many(1), attempts=2)
    (first,), _ = written(made, tmp_path / "requests.jsonl")
    batch.import_results(made, [results(tmp_path / "1.jsonl", [answer(first[0], finish_reason="length")])], PROGRESS)
    (second,), _ = written(made, tmp_path / "requests.jsonl")
    assert [line[0]["custom_id"][-2:] for line in (first, second)] == ["-0", "-1"]
    assert first[0]["body"]["seed"] != second[0]["body"]["seed"]
    counts = batch.import_results(made, [results(tmp_path / "2.jsonl", [answer(second[0], "Hm.")])], PROGRESS)
    assert counts == {"failed: no_answer": 1}
    assert {line["seed"] for line in lines(made.attempts)} == {line[0]["body"]["seed"] for line in (first, second)}
    assert num_open(made, tmp_path) == 0


def test_a_text_that_comes_after_an_error_of_the_same_attempt_is_not_lost(tmp_path):
    made = teaching(tmp_path, many(1))
    ((request,),), _ = written(made, tmp_path / "requests.jsonl")
    refused = answer(request, response={"status_code": 503, "body": {}}, error=None)
    assert batch.import_results(made, [results(tmp_path / "1.jsonl", [refused])], PROGRESS) == {"failed: status_503": 1}
    assert batch.import_results(made, [results(tmp_path / "2.jsonl", [answer(request)])], PROGRESS) == {"answered": 1}


def test_a_hint_is_given_only_when_every_plain_request_is_settled_and_none_was_right(tmp_path):
    made = teaching(tmp_path, many(2), num_rationales=2, attempts=1, rationalise=True)
    (requests,), counts = written(made, tmp_path / "requests.jsonl")
    assert counts == {"written": 4}
    assert not any("as if nobody had told you" in json.dumps(request) for request in requests)
    wrong = "It is square.\nAnswer: mill (A)"
    said = [answer(requests[0]), *(answer(request, wrong) for request in requests[1:3])]
    batch.import_results(made, [results(tmp_path / "1.jsonl", said)], PROGRESS)
    (requests,), _ = written(made, tmp_path / "requests.jsonl")
    assert len(requests) == 1  # the plain one that was not answered yet
    batch.import_results(made, [results(tmp_path / "2.jsonl", [answer(requests[0], wrong)])], PROGRESS)
    (requests,), _ = written(made, tmp_path / "requests.jsonl")
    (hinted,) = requests
    assert "The right option is cast (B)" in hinted["body"]["messages"][0]["content"][1]["text"]
    batch.import_results(made, [results(tmp_path / "3.jsonl", [answer(hinted)])], PROGRESS)
    assert num_open(made, tmp_path) == 0


def test_a_request_whose_image_cannot_be_read_is_quarantined_in_the_ledger_and_not_written(tmp_path):
    made = teaching(tmp_path, many(3), without=["q1"], rationalise=True)
    (requests,), counts = written(made, tmp_path / "requests.jsonl")
    assert (len(requests), counts) == (2, {"written": 2, "quarantined": 2})  # the question, and then with its hint
    assert {(line["status"], line["error"]) for line in lines(made.attempts)} == {("quarantined", "missing_image")}
    batch.import_results(made, [results(tmp_path / "r.jsonl", map(answer, requests))], PROGRESS)
    assert num_open(made, tmp_path) == 0


def test_a_full_file_is_followed_by_a_numbered_one(tmp_path):
    made = teaching(tmp_path, many(7))
    files, _ = written(made, tmp_path / "out" / "requests.jsonl", max_requests=3)
    assert [len(file) for file in files] == [3, 3, 1]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["requests-00001.jsonl", "requests-00002.jsonl", "requests.jsonl"]
    size = (tmp_path / "out" / "requests-00002.jsonl").stat().st_size
    by_bytes, _ = written(made, tmp_path / "bytes" / "requests.jsonl", max_bytes=2 * size + 10)
    assert [len(file) for file in by_bytes] == [2, 2, 2, 1]
    assert list(chain(*by_bytes)) == list(chain(*files))


def test_files_of_an_earlier_call_that_are_not_needed_any_more_are_taken_away(tmp_path):
    made = teaching(tmp_path, many(4))
    (tmp_path / "requests-mine.jsonl").write_text("kept")
    (tmp_path / ".requests-00009.jsonl.partial").write_text("of a killed call")
    files, _ = written(made, tmp_path / "requests.jsonl", max_requests=2)
    batch.import_results(made, [results(tmp_path / "r.jsonl", map(answer, list(chain(*files))[:3]))], PROGRESS)
    ((left,),), _ = written(made, tmp_path / "requests.jsonl", max_requests=2)
    assert left["custom_id"] == files[1][1]["custom_id"]
    assert {path.name for path in tmp_path.glob("*requests*")} == {"requests.jsonl", "requests-mine.jsonl"}


def test_a_request_larger_than_a_file_may_be_stays_open_and_is_counted(tmp_path):
    made = teaching(tmp_path)
    assert written(made, tmp_path / "requests.jsonl", max_bytes=100) == ([], {"too_large": 3})
    assert num_open(made, tmp_path) == 3
    with pytest.raises(ConfigError, match="at most 0 requests"):
        batch.export_requests(made, tmp_path / "requests.jsonl", PROGRESS, max_requests=0)


def test_a_write_that_is_killed_leaves_the_earlier_files_and_nothing_new(tmp_path, monkeypatch):
    made = teaching(tmp_path, many(5))
    (tmp_path / "requests.jsonl").write_text("earlier")
    lines_made = iter([b"{}\n", b"{}\n"])

    def interrupted(*_):
        try:
            return next(lines_made)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(batch, "_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        batch.export_requests(made, tmp_path / "requests.jsonl", PROGRESS, max_requests=1)
    assert (tmp_path / "requests.jsonl").read_text() == "earlier"
    assert [path.name for path in tmp_path.glob("*requests*")] == ["requests.jsonl"]


@pytest.mark.parametrize("num_read", range(5))
def test_a_read_that_is_killed_loses_nothing_and_counts_nothing_twice(tmp_path, monkeypatch, num_read):
    made = teaching(tmp_path, many(5))
    (requests,), _ = written(made, tmp_path / "requests.jsonl")
    path = results(tmp_path / "r.jsonl", map(answer, requests))
    add = ledger.Writer.add
    left = iter(range(num_read))

    def killed(writer, attempt):
        if next(left, None) is None:
            raise KeyboardInterrupt
        add(writer, attempt)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ledger.Writer, "add", killed)
        batch.import_results(made, [path], PROGRESS)
    counts = batch.import_results(made, [path], PROGRESS)
    assert (counts["answered"], counts["answered before"]) == (5 - num_read, num_read)
    assert len(lines(made.attempts)) == 5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"response": {"status_code": 429, "body": {"error": {"message": "no"}}}}, "status_429"),
        (
            {"response": {"status_code": 400, "body": {"error": {"message": "maximum context length is 9"}}}},
            "prompt_too_long",
        ),
        (
            # as `vllm run-batch` has it
            {"response": {"status_code": 400, "body": None}, "error": {"error": {"message": "maximum context length"}}},
            "prompt_too_long",
        ),
        ({"response": {"status_code": 400, "body": None}, "error": "Which process route"}, "status_400"),
        ({"response": None, "error": {"code": "batch_expired", "message": "late"}}, "batch_expired"),
        ({"response": None, "error": {"code": "Which process route\n", "message": ""}}, "batch_error"),
        ({"response": None}, "answer_is_no_chat_completion"),
        ({"response": {"status_code": True, "body": {}}}, "answer_is_no_chat_completion"),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, "answer_is_no_chat_completion"),
    ],
)
def test_an_error_is_an_attempt_that_failed_for_a_reason_of_ours(tmp_path, changes, reason):
    made = teaching(tmp_path, many(1))
    ((request,),), _ = written(made, tmp_path / "requests.jsonl")
    assert batch.import_results(made, [results(tmp_path / "r.jsonl", [answer(request, **changes)])], PROGRESS) == {
        f"failed: {reason}": 1
    }
    (line,) = lines(made.attempts)
    assert (line["status"], line["text"], line["seed"]) == ("failed", "", request["body"]["seed"])


def test_lines_that_answer_nothing_of_this_recipe_are_counted_and_change_nothing(tmp_path):
    made = teaching(tmp_path, many(1))
    ((request,),), _ = written(made, tmp_path / "requests.jsonl")
    names = ["request-1", "", None, 7, "0" * 32 + "-0", request["custom_id"] + "0" * 9, request["custom_id"].upper()]
    half = json.dumps(answer(request))[:-9]
    path = results(tmp_path / "r.jsonl", [answer(request, custom_id=name) for name in names])
    with path.open("a") as stream:
        stream.write(f"\n  \n[1]\n{'[' * 100_000}\n\udcff\n{half}".encode("utf-8", "surrogateescape").decode("latin-1"))
    counts = batch.import_results(made, [path], PROGRESS)
    assert counts == {"unreadable": 4, "of no request here": len(names)}
    assert lines(made.attempts) == []


def test_results_that_are_not_there_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.jsonl cannot be read"):
        batch.import_results(teaching(tmp_path), [tmp_path / "none.jsonl"], PROGRESS)


def test_a_line_longer_than_any_answer_is_not_held_and_does_not_hide_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.inference.jsonl.LONGEST_LINE", 2000)
    made = teaching(tmp_path, many(2))
    ((one, two),), _ = written(made, tmp_path / "requests.jsonl")
    path = results(tmp_path / "r.jsonl", [answer(one, TEXT * 100), answer(two)])
    assert batch.import_results(made, [path], PROGRESS) == {"unreadable": 1, "answered": 1}


def paths_in(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_in(inner, (*path, name))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A question and its probes, and the answers of an endpoint that tells all it can."""
    folder = tmp_path_factory.mktemp("asked")
    made = teaching(folder, many(2), grounding_share=1.0)
    (requests,), _ = written(made, folder / "requests.jsonl")
    answers = [answer(request) for request in requests]
    for each in answers:
        choice = each["response"]["body"]["choices"][0]
        choice["logprobs"] = {"content": [{"token": "t", "logprob": -0.5}]}
        choice["message"]["reasoning_content"] = "Hm."
    return made, answers


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_however_a_result_is_spoiled_it_is_counted_and_never_becomes_an_answer_that_nobody_gave(asked, tmp_path, data):
    made, answers = asked
    spoiled = copy.deepcopy(answers)
    for each in spoiled:
        *path, last = data.draw(st.sampled_from([path for path in paths_in(each) if path]))
        inner = each
        for name in path:
            inner = inner[name]
        if data.draw(st.booleans()):
            del inner[last]
        else:
            inner[last] = data.draw(JSON)
    path = tmp_path / "r.jsonl"
    written_lines = [json.dumps(each).encode() for each in spoiled]
    torn = data.draw(st.integers(0, len(written_lines[0])))
    path.write_bytes(b"\n".join([*written_lines[1:], written_lines[0][:torn]]))
    for old in made.attempts.glob("*.jsonl"):
        old.unlink()
    counts = batch.import_results(made, [path], PROGRESS)
    assert counts.total() == len(spoiled) - (torn == 0)
    assert len(Ledger(made.attempts)) <= len(spoiled)
    for line in lines(made.attempts):
        assert (line["status"] == Status.ANSWERED) == (line["error"] is None)
        if line["status"] == Status.ANSWERED:
            (said,) = [each for each in spoiled if str(each.get("custom_id")).startswith(line["id"])]
            (choice,) = said["response"]["body"]["choices"][:1]
            assert (said["response"]["status_code"], said.get("error")) == (200, None)
            assert isinstance(choice["finish_reason"], str)
            assert line["text"] == (choice["message"]["content"] or "").encode("utf-8", "replace").decode().strip()
    batch.import_results(made, [path], PROGRESS)
    assert len(Ledger(made.attempts)) <= len(spoiled)


def test_the_command_line_writes_reads_and_says_what_became_of_it(tmp_path, capsys):
    run_dir = tmp_path / "runs" / "r"
    put_many(run_dir, many(3))
    words = ["pocket", "--run-dir", str(run_dir), "--set", "teach.attempts=1"]
    words += ["--set", "teach.num_rationales=1", "--set", "teach.grounding_share=0"]
    batch.main(["export", *words, "--out", str(tmp_path / "requests.jsonl"), "--max-requests", "2"])
    assert re.search(r"^batch: written 3 in .*requests\.jsonl, .*requests-00001\.jsonl$", capsys.readouterr().out, re.M)
    requests = [json.loads(line) for path in tmp_path.glob("*.jsonl") for line in path.read_text().splitlines()]
    path = results(tmp_path / "results", [answer(requests[0]), answer(requests[1], "Hm."), answer({"custom_id": "x"})])
    batch.main(["import", *words, str(path), str(path)])
    told = capsys.readouterr().out.splitlines()[-1]
    assert "read answered 1, answered before 1, failed: no answer 1, read before 1, of no request here 2" in told
    batch.main(["export", *words, "--out", str(tmp_path / "requests.jsonl")])
    assert "batch: written 1 in" in capsys.readouterr().out


def test_questions_that_are_not_sealed_yet_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        batch.main(["import", "pocket", "--run-dir", str(tmp_path / "r"), "x.jsonl"])
    assert "questions is not there yet" in capsys.readouterr().err


def test_questions_without_a_training_split_and_a_place_that_takes_no_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="none with split `train`"):
        batch.export_requests(teaching(tmp_path / "a", [question(split="test")]), tmp_path / "x.jsonl", PROGRESS)
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot be written.*name another --out"):
        batch.export_requests(teaching(tmp_path / "b"), tmp_path / "file" / "x.jsonl", PROGRESS)


def test_attempts_of_engines_and_of_batches_stand_side_by_side(tmp_path):
    made = teaching(tmp_path, many(2))
    (requests,), _ = written(made, tmp_path / "requests.jsonl")
    done = requests[0]["custom_id"][:32]
    write(
        made.attempts, [ledger.Attempt(id=done, status="answered", seed=1, letter="B", text=TEXT, finish_reason="stop")]
    )
    assert batch.import_results(made, [results(tmp_path / "r.jsonl", map(answer, requests))], PROGRESS) == {
        "answered before": 1,
        "answered": 1,
    }
