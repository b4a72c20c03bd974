"""The second reader sees the reasoning and never the answer; what does not lead it to the gold option is rejected."""

import collections
import dataclasses
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import manifest, runner
from infra.errors import ClusterError, ConfigError, InputError
from infra.progress import Progress
from pipelines import flow
from pipelines.inference import prompts
from pipelines.inference.backends import client
from pipelines.records import Question, Rationale, Verdict, tables
from pipelines.rehearsal import standins, stub_endpoint
from pipelines.verification import estimate, reread, stage
from pipelines.verification.config import Reread, VerifyConfig
from tests.pipelines.fixtures import put, question, rationale, verdict

GOOD = "Round pores between bright dendrites are seen all over the field."
ELSEWHERE = "Long flat grains lie side by side in bands, as they do where a sheet has been rolled."
LINE = "\nAnswer: cast (B)"
NAME = "reader"
REASONING = re.compile(r"<reasoning>\n(.*)\n</reasoning>", re.DOTALL)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(client, "_FIRST_PAUSE_S", 0.001)


def prepare(run_dir, rationales, asked=None):
    """Sealed questions, one for each that rationales are about, and the rationales."""
    asked = asked or [question(id=each) for each in dict.fromkeys(r.question_id for r in rationales)]
    put(run_dir, "questions", lambda d: tables.write(d, Question, asked))
    put(run_dir, "rationales", lambda d: tables.write(d, Rationale, rationales), inputs=["questions"])
    return run_dir


def one_each(*bodies):
    """A rationale with the gold answer for each question."""
    return [rationale(f"{body}{LINE}", id=f"r{n}", question_id=f"q{n}") for n, body in enumerate(bodies)]


def different(number):
    return one_each(*(f"{GOOD} There are {n + 10} of them in a row." for n in range(number)))


def reasoning_in(body):
    (content,) = body["messages"]
    (part,) = content["content"]  # and no image
    return REASONING.search(part["text"])[1]


def honest(body):
    return "It is rolled.\nAnswer: mill (A)" if "rolled" in reasoning_in(body) else "Answer: cast (B)"


def config_at(base_url, **changes):
    settings = {"max_failed_share": 0.0, "batch_size": 1} | changes
    return VerifyConfig(min_accepted=0, keep=1, reread=Reread(model=NAME, endpoint=base_url, **settings))


def verify(run_dir, reply, models=(NAME,), **changes):
    """The sealed artifact and its verdicts."""
    with stub_endpoint.endpoint(reply, models) as base_url:
        artifact = runner.carry_out(config_at(base_url, **changes), run_dir, Progress("verify"))["verdicts"]
    assert [path.name for path in artifact.path.glob("*") if path.is_dir()] == []
    return artifact, tables.read(artifact.path, Verdict)


def test_a_contradiction_that_no_rule_finds_is_rejected_and_good_reasoning_stays(tmp_path):
    run_dir = prepare(tmp_path / "r", one_each(GOOD, ELSEWHERE))
    unread = runner.carry_out(VerifyConfig(), run_dir, Progress("verify"))["verdicts"]
    assert unread.tally["rows"]["accepted"] == 2
    artifact, verdicts = verify(run_dir, honest)
    assert [(v.status, v.reason, v.selected) for v in verdicts] == [
        ("accepted", "accepted", True),
        ("rejected", "reread_disagrees", False),
    ]
    assert artifact.tally["reasons"] == {"reread_disagrees": 1}
    assert artifact.tally["rows"]["reread"] == 2


@pytest.mark.parametrize(
    ("said", "status", "reason"),
    [
        ("The pores are round.\nAnswer: cast (B)", "accepted", "accepted"),
        ("Answer: die cast (D)", "rejected", "reread_disagrees"),
        ("It speaks for cast and against it.\nAnswer: undecided", "rejected", "reread_undecided"),
        ("Answer: cast (B) or mill (A)", "rejected", "reread_undecided"),
        ("", "rejected", "reread_undecided"),
        (stub_endpoint.Said(text="It might", finish_reason="length"), "failed", "reread_truncated"),
        (stub_endpoint.Refused(status=400), "failed", "reread_status_400"),
        (b"{}", "failed", "reread_answer_is_no_chat_completion"),
    ],
)
def test_only_the_gold_letter_accepts_and_a_request_that_failed_is_no_rejection(tmp_path, said, status, reason):
    accepted = different(3)
    run_dir = prepare(tmp_path / "r", accepted)
    last = accepted[-1].text.removesuffix(LINE)

    def reply(body):
        return said if reasoning_in(body) == last else "Answer: cast (B)"

    artifact, verdicts = verify(run_dir, reply, max_failed_share=0.5)
    assert (verdicts[-1].status, verdicts[-1].reason) == (status, reason)
    assert all(v.selected for v in verdicts[:-1])
    assert verdicts[-1].selected is (status == "accepted")
    rows = artifact.tally["rows"]
    counted = [rows.get(each, 0) for each in ("accepted", "rejected", "failed", "quarantined")]
    assert rows["rationales"] == sum(counted) == 3
    assert sum(artifact.tally["reasons"].values()) == 3 - rows["accepted"]


def test_only_what_is_accepted_is_read_and_counted_by_stratum(tmp_path):
    asked = [question(id=f"q{n}", stratum="seen" if n < 3 else "unseen") for n in range(5)]
    rows = one_each(GOOD, ELSEWHERE, "The caption says that it is cast.", f"{GOOD} And more.", "Hm.")
    probe = rationale(f"{GOOD}{LINE}", id="p", question_id="q4", condition="absent")
    broken = rationale("", id="f", question_id="q4", number=1, status="failed", error="timed_out")
    run_dir = prepare(tmp_path / "r", [*rows, probe, broken], asked)
    read = []

    def reply(body):
        read.append(reasoning_in(body))
        return "Answer: undecided" if "more" in read[-1] else honest(body)

    artifact, verdicts = verify(run_dir, reply)
    assert sorted(read) == sorted([GOOD, ELSEWHERE, f"{GOOD} And more."])
    assert artifact.tally["facts"]["reread"] == {
        "seen": {"read": 2, "agrees": 1, "disagrees": 1},
        "unseen": {"read": 1, "undecided": 1},
    }
    assert [v.rationale_id for v in verdicts] == [*(r.id for r in rows), "f"]
    assert artifact.tally["rows"]["probes"] == 1
    assert artifact.tally["reasons"] == {
        "reread_disagrees": 1, "reread_undecided": 1, "cites_caption": 1, "too_short": 1, "timed_out": 1
    }  # fmt: skip


def test_those_that_teach_are_chosen_after_the_second_reading(tmp_path):
    first = rationale(f"{ELSEWHERE}{LINE}", id="a", number=0)
    second = rationale(f"{GOOD}{LINE}", id="b", number=1)
    told = [rationale(f"{GOOD} {n}.{LINE}", id=f"h{n}", question_id=f"h{n}", hinted=True) for n in range(3)]
    run_dir = prepare(tmp_path / "r", [second, first, *told])
    artifact, verdicts = verify(run_dir, honest)
    assert {v.rationale_id: v.selected for v in verdicts if not v.hinted} == {"a": False, "b": True}
    assert artifact.tally["rows"]["selected"] == 1  # a tenth of one may be hinted
    assert artifact.tally["reasons"] == {"reread_disagrees": 1, "hinted_over_share": 3}


def test_without_a_second_reader_nothing_is_asked_and_with_one_that_agrees_the_verdicts_are_the_same(tmp_path):
    rows = [*one_each(GOOD, "Hm.", ELSEWHERE), rationale(GOOD, id="h", question_id="q9", hinted=True)]
    run_dir = prepare(tmp_path / "r", rows)
    config = dataclasses.replace(config_at("http://127.0.0.1:9/v1"), reread=None)
    without = tables.read(runner.carry_out(config, run_dir, Progress("verify"))["verdicts"].path, Verdict)
    assert not (tmp_path / "ledger").exists()
    assert "reread" not in manifest.find(run_dir / "verdicts").tally["rows"]
    assert "reread" not in config.prompt_digests()
    assert verify(run_dir, lambda _: "Answer: cast (B)")[1] == without


ENDS = (
    "Answer: cast (B)",
    "**Answer:** cast (B)",
    "Answer: B",
    "Final answer: cast (B)",
    "Therefore, the answer is cast.",
    "The correct answer is (B).",
    "So the best option is B. cast.",
    "<answer>B</answer>",
    "<answer>cast</answer>",
    "\\boxed{B}",
    "The answer is $\\boxed{\\text{cast}}$.",
    '{"answer": "B"}',
    "### Final Answer\n\n**B. cast**",
    "(B)",
    "B",
    "Die richtige Antwort ist B.",
    "答案是B。",
)


@pytest.mark.parametrize("gap", [" ", "\n", "\n\n"])
@pytest.mark.parametrize("last", ENDS)
def test_no_answer_at_the_end_is_shown_to_the_second_reader_however_often_it_is_given(tmp_path, last, gap):
    texts = [f"{GOOD}{gap}{end}\n{last}" for end in ENDS]
    texts += [f"{GOOD}{gap}{gap.join(ENDS)}\n{last}\n{last}"]
    rows = [rationale(text, id=f"r{n}", question_id=f"q{n}") for n, text in enumerate(texts)]
    own = reread.inference(Reread(model=NAME, endpoint="http://127.0.0.1:9/v1"))
    shown = set()
    for row in rows:
        verdicts = stage.verify(question(id=row.question_id), [row], VerifyConfig())
        shown |= {
            REASONING.search(each.prompt)[1] for each in reread.requests_of(question(id=row.question_id), verdicts, own)
        }
    assert shown == {GOOD}


def test_one_reasoning_is_read_once_whatever_question_with_these_words_it_is_about(tmp_path):
    rows = [rationale(f"{GOOD}{LINE}", id=f"r{n}", question_id=f"q{n // 3}", number=n) for n in range(9)]
    asked = []
    _, verdicts = verify(prepare(tmp_path / "r", rows), lambda body: asked.append(body) or honest(body))
    assert len(asked) == 1
    assert [v.accepted for v in verdicts] == [True] * 9


def test_what_is_in_the_ledger_is_not_asked_again_by_another_run(tmp_path):
    rows, asked = different(5), []
    listening = stub_endpoint.endpoint(lambda body: asked.append(body) or honest(body), [NAME])
    with listening as base_url:
        for name in ("a", "b"):
            config = config_at(base_url, concurrency=1 + (name == "b"), expected_answers_per_s=2.0)
            runner.carry_out(config, prepare(tmp_path / name, rows), Progress("verify"))
    assert len(asked) == 5
    assert manifest.find(tmp_path / "b/verdicts").tally["rows"]["accepted"] == 5


VERIFY = """
import sys
from pathlib import Path
from infra import runner
from infra.progress import Progress
from tests.pipelines.verification.test_reread import config_at
runner.carry_out(config_at(sys.argv[2], concurrency=2), Path(sys.argv[1]), Progress("verify"))
"""


def test_a_killed_second_reading_asks_nothing_twice_but_what_was_in_flight_and_misses_nothing(tmp_path):
    rows = [*different(12), *(dataclasses.replace(r, id=f"e{r.id}") for r in one_each(*[ELSEWHERE] * 13)[12:])]
    _, whole = verify(prepare(tmp_path / "whole/r", rows), honest)
    run_dir = prepare(tmp_path / "runs/r", rows)
    seen, answered = collections.Counter(), 0

    def reply(body):
        nonlocal answered
        seen[reasoning_in(body)] += 1
        answered += 1
        return stub_endpoint.Said(text=honest(body), after_s=0.3 * (answered > 6))

    with stub_endpoint.endpoint(reply, [NAME]) as base_url:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
        process = subprocess.Popen([sys.executable, "-c", VERIFY, str(run_dir), base_url], env=environment)
        deadline = time.monotonic() + 60
        while answered <= 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        written = sum(path.read_bytes().count(b"\n") for path in (run_dir.parent / "ledger").glob("*/*.jsonl"))
        before = seen.copy()
        seen.clear()
        artifact = runner.carry_out(config_at(base_url, concurrency=2), run_dir, Progress("verify"))["verdicts"]
    assert 0 < written < 13
    assert seen.total() == 13 - written
    assert before.total() + seen.total() - 13 == len(before & seen) <= 2
    assert tables.read(artifact.path, Verdict) == whole


def test_a_failing_endpoint_stops_the_stage_early_with_the_reasons_and_nothing_is_sealed(tmp_path):
    run_dir, asked = prepare(tmp_path / "r", different(400)), []
    with pytest.raises(InputError, match=r"requests failed \(status_400 \d+\): most were not answered"):
        verify(run_dir, lambda body: asked.append(body) or 400, max_failed_share=1.0)
    assert 100 <= len(asked) < 300
    assert manifest.find(run_dir / "verdicts") is None


def test_more_failures_than_the_recipe_allows_stop_the_stage_with_what_to_type(tmp_path):
    run_dir = prepare(tmp_path / "r", different(10))

    def reply(body):
        if re.search("are 1[012] of", reasoning_in(body)):
            return stub_endpoint.Said(text="Hm", finish_reason="length")
        return honest(body)

    with pytest.raises(InputError, match=r"3 of 10 second .*truncated 3.*--set verify\.reread\.max_failed_share="):
        verify(run_dir, reply, max_failed_share=0.2)
    assert manifest.find(run_dir / "verdicts") is None
    assert verify(run_dir, reply, max_failed_share=0.3)[0].tally["reasons"] == {"reread_truncated": 3}


def test_an_endpoint_without_the_reader_is_told_before_anything_is_asked(tmp_path):
    run_dir, asked = prepare(tmp_path / "r", one_each(GOOD)), []
    with pytest.raises(ClusterError, match=r"serves 'other', and no 'reader'\. .*--set verify\.reread=null"):
        verify(run_dir, asked.append, models=["other"])
    assert asked == []


def test_where_nothing_is_accepted_nobody_is_asked(tmp_path):
    config = config_at("http://127.0.0.1:9/v1")
    artifact = runner.carry_out(config, prepare(tmp_path / "r", one_each("Hm.")), Progress("verify"))["verdicts"]
    assert (artifact.tally["rows"]["reread"], artifact.tally["facts"]["reread"]) == (0, {})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('{"model": "m"}', "verify.reread.endpoint"),
        ('{"model": " ", "endpoint": "http://h/v1"}', "model is empty"),
        ('{"model": "m", "endpoint": "h:8000"}', "endpoint is 'h:8000': name the base URL"),
        ('{"model": "m", "endpoint": "http://h/v1", "ledger": "x"}', "name an absolute path"),
        ('{"model": "m", "endpoint": "http://h/v1", "max_failed_share": 2}', "max_failed_share"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_words(given, message):
    with pytest.raises(ConfigError, match=message):
        flow.resolve("pocket", [f"verify.reread={given}"])


def test_a_recipe_names_a_second_reader_and_too_short_a_time_is_found_beforehand():
    given = '{"model": "m", "endpoint": "http://h/v1", "max_tokens": 4096}'
    configs = flow.resolve("pocket", [f"verify.reread={given}"])
    assert configs["verify"].reread == Reread(model="m", endpoint="http://h/v1", max_tokens=4096)
    assert [f for f in flow.findings(configs) if "reread" in f] == [
        "verify.reread.timeout_s is 120, too short for 4096 tokens at 10 a second, as one of many answers is written: "
        "--set verify.reread.timeout_s=410"
    ]


def test_a_dry_run_tells_how_many_are_read_at_most_and_how_long_that_takes(tmp_path):
    rows = [*different(4), rationale("", id="f", question_id="q4", status="failed", error="timed_out")]
    config = config_at("http://h/v1")
    assert estimate.estimate(dataclasses.replace(config, reread=None), tmp_path) == {}
    assert estimate.estimate(config, tmp_path)["hours"].value is None
    run_dir = prepare(tmp_path / "r", rows)
    told = config.estimate(run_dir)
    assert told["requests"] == {"at_most": 4}
    assert (told["tokens"].value, told["hours"].value) == (None, None)
    assert "at most 512 tokens for each of at most 4 rationales" in told["tokens"].why
    expected = config_at("http://h/v1", expected_answers_per_s=2.0)
    assert expected.estimate(run_dir)["hours"].value == pytest.approx(2 / 3600, rel=0.01)
    metrics = {"attempts_now": 200, "seconds_now": 50, "prompt_tokens_now": 60_000, "output_tokens_now": 4_000}
    measured = {f"reread_{name}": value for name, value in metrics.items()}
    put(run_dir, "verdicts", lambda d: tables.write(d, Verdict, [verdict()]), metrics=measured)
    told = config.estimate(run_dir)
    assert (told["tokens"].value, told["hours"].value) == (4 * 320, pytest.approx(1 / 3600, rel=0.01))


def test_what_a_dry_run_is_told_makes_no_other_verdicts():
    one, other = (config_at("http://h/v1", expected_answers_per_s=speed) for speed in (None, 5.0))
    assert one.outputs() == other.outputs()


def test_the_stand_in_of_a_rehearsal_reads_every_reasoning_as_the_gold_answer(tmp_path):
    tables.write(tmp_path, Question, [question()])
    asked = prompts.reread_prompt(question(), GOOD)
    assert standins.Answers.of(tmp_path).to(asked).endswith(LINE)
    rehearsed = config_at("http://h/v1").rehearsed(tmp_path / "rehearsal/models", 4)
    assert rehearsed.reread.ledger == str(tmp_path / "rehearsal/ledger")
