"""What a job that did not succeed is said to have ended for."""

import pytest

from infra.jobs import _reason

RAY = "[2026-11-26 02:42:08,377 I 1 1] (raylet) worker_pool.cc:564: Started worker process"
START = "Running entrypoint for job teach-1: env RAY_ADDRESS=127.0.0.1:1 python -m pipelines.teacher"


def test_a_stage_s_own_error_is_the_reason():
    lines = [START, "teach: 3/9 questions", "teach: error: no such teacher", "  it was moved", RAY]
    assert _reason("teach", lines, "exit code 1") == "no such teacher\n  it was moved"


def test_what_an_engine_says_of_itself_when_it_ends_is_no_part_of_the_error():
    worker = "\x1b[36m(MapWorker(MapBatches(TeacherActor)) pid=7)\x1b[0m"
    noise = [f"{worker} nanobind: leaked 4 instances!", f'{worker}  - leaked function "get_ptr_ty"', RAY]
    assert _reason("teach", [START, "teach: error: 9 of 9 requests failed", *noise], "") == "9 of 9 requests failed"


def test_the_end_of_a_traceback_is_the_reason_where_the_stage_says_nothing():
    lines = [START, RAY, "Traceback (most recent call last):", "ImportError: no module"]
    assert _reason("teach", lines, "") == "Traceback (most recent call last):\nImportError: no module"


@pytest.mark.parametrize("said", ["Job entrypoint command failed with exit code -9\nmore", ""])
def test_a_job_that_was_killed_is_said_to_have_ended_without_a_word_and_what_to_type(said):
    reason = _reason("teach", [START, "teach: 3/9 questions, 1.0/s", RAY, ""], said)
    assert reason.startswith("teach ended without a word (")
    assert "Run the same command again" in reason
    assert "RAY_ADDRESS" not in reason
    assert ("exit code -9" in reason) == bool(said)
