"""The stage around its engines, which work in this process here; the flow's own tests have Ray and the real ones."""

import dataclasses
from functools import partial
from types import SimpleNamespace

import pytest

from infra.errors import InputError
from infra.progress import Progress
from pipelines.inference import failures, worker
from pipelines.inference.backends.engine_config import EngineConfig
from pipelines.records import Rationale, tables
from pipelines.teaching import stage as teacher
from tests.fakes import FakeEngine
from tests.pipelines.fixtures import question
from tests.pipelines.teaching.fixtures import config, many, put_many


@pytest.fixture
def started(monkeypatch):
    """The settings that workers were started with; each carries a whole plan out in this process."""
    settings = []

    def work_through(job, plan, start):
        settings.append(job.config)
        return worker.work_through(job, plan, start)

    monkeypatch.setattr(teacher, "_on_ray", lambda task, own: work_through)
    return settings


def teach(tmp_path, asked, settings=None, name="a", without=(), **fake):
    """Run the stage; its rationales and its tally."""
    run_dir = tmp_path / "runs" / name
    artifact = put_many(run_dir, asked, without=without)
    draft = run_dir / "draft"
    draft.mkdir()
    logged = []
    task = SimpleNamespace(
        config=settings or config(),
        inputs={"questions": artifact},
        draft=draft,
        run_dir=run_dir,
        progress=Progress("teach"),
        metric=lambda *number: logged.append(number),
    )
    tally = teacher.run(task, partial(FakeEngine, **fake))
    assert sorted(path.name for path in draft.iterdir()) == ["rationales.parquet", "top_logprobs.parquet"]
    return tables.read(draft, Rationale), tally


def test_every_training_question_is_explained_and_every_row_is_accounted_for(started, tmp_path):
    asked = [*many(10), *many(3, split="test")]
    rationales, tally = teach(tmp_path, asked, config(num_rationales=2, max_failed_share=0.5), without={"q3"})
    assert [(r.question_id, r.number) for r in rationales] == [(f"q{n}", k) for n in range(10) for k in range(2)]
    assert tally.rows == {"asked": 20, "answered": 18}
    assert tally.quarantined == {"missing_image": 2}
    assert tally.rows["asked"] == tally.rows["answered"] + sum(tally.reasons.values()) + sum(tally.quarantined.values())
    assert tally.metrics["output_tokens"] == 18 * 20
    assert {"tokens_per_s", "engine_seconds_now", "seconds_to_first"} <= tally.metrics.keys()


def test_each_rationale_says_by_whom_and_how_it_was_written(started, tmp_path):
    (rationale,), _ = teach(tmp_path, many(1))
    assert rationale.teacher == "train/pocket/teacher"
    assert len(rationale.teacher_digest) == len(rationale.prompt_digest) == len(rationale.sampling_digest) == 64
    assert (rationale.mean_logprob, rationale.min_logprob, rationale.attempts) == (-0.1, -0.1, 1)


def test_another_run_finds_what_is_finished_and_starts_no_engine(started, tmp_path):
    first, _ = teach(tmp_path, many(10), name="a")
    second, _ = teach(tmp_path, many(10), name="b")
    assert second == first
    assert len(started) == 1


def test_a_run_over_more_questions_asks_only_the_new_ones(started, tmp_path):
    calls = tmp_path / "calls"
    teach(tmp_path, many(10), name="a", calls=calls)
    teach(tmp_path, many(14), name="b", calls=calls)
    assert len(calls.read_text().splitlines()) == 14


@pytest.mark.parametrize(("allowed", "needed"), [(1, 3), (8, 8)])
def test_the_engine_takes_as_many_images_as_any_of_the_questions_has(started, tmp_path, allowed, needed):
    settings = config()
    settings = dataclasses.replace(settings, engine=dataclasses.replace(settings.engine, images_per_request=allowed))
    asked = [
        *many(2),
        question(id="m", images=tuple(f"images/0.zip/{n}.png" for n in "012"), image_digests=("x", "y", "z")),
        question(id="t", split="test", images=("images/0.zip/0.png",) * 9, image_digests=("x",) * 9),
    ]
    teach(tmp_path, asked[:2] + asked[2:], dataclasses.replace(settings, max_failed_share=1.0))
    (used,) = started
    assert used.engine.images_per_request == needed


def test_a_question_for_evaluation_alone_is_never_explained(started, tmp_path):
    with pytest.raises(InputError, match=r"q1 of S f\.csv is for evaluation alone.*split `train`"):
        teach(tmp_path, [question(), question(id="q1", source="S", file="f.csv", evaluation_only=True)])
    assert started == []


def test_questions_without_a_training_split_are_refused(started, tmp_path):
    with pytest.raises(InputError, match="none with split `train`"):
        teach(tmp_path, many(2, split="test"))


@pytest.mark.parametrize(("num_lost", "stops"), [(1, False), (2, False), (3, True)])
def test_a_share_of_failures_above_the_recipe_s_stops_the_stage_with_its_reasons(started, tmp_path, num_lost, stops):
    lost = {f"q{n}" for n in range(num_lost)}
    if stops:
        with pytest.raises(InputError, match=r"3 of 20 requests .*failed \(missing_image 3\).*max_failed_share"):
            teach(tmp_path, many(20), config(max_failed_share=0.1), without=lost)
    else:
        assert (
            teach(tmp_path, many(20), config(max_failed_share=0.1), without=lost)[1].rows["answered"] == 20 - num_lost
        )


def test_many_failures_stop_the_engines_at_once_and_not_at_the_end(started, tmp_path):
    lost = {f"q{n}" for n in range(150)}
    calls = tmp_path / "calls"
    with pytest.raises(InputError, match="requests failed"):
        settings = config(attempts=1, max_failed_share=0.1, engine=EngineConfig(max_num_seqs=8))
        teach(tmp_path, many(400), settings, without=lost, calls=calls)
    assert len(calls.read_text().splitlines()) < 200


def test_a_model_may_be_of_no_use_where_the_recipe_says_so_but_not_be_gone():
    def check(count: int, reason: str, limit: float):
        failures.check("requests", 10, {reason: count}, limit, "teach")

    check(10, "no_answer", 1.0)
    check(5, "ConnectionError", 1.0)
    with pytest.raises(InputError, match=r"6 of 10 requests failed \(ConnectionError 6\): most were not answered"):
        check(6, "ConnectionError", 1.0)
    with pytest.raises(InputError, match=r"more than the recipe's share of 0\.1"):
        check(2, "no_answer", 0.1)


def test_a_provider_that_was_gone_and_is_back_is_asked_for_all_that_it_did_not_answer(started, tmp_path):
    settings = config(teacher="t", endpoint="http://127.0.0.1:9/v1", attempts=2)
    with pytest.raises(InputError, match="100 of 100 requests failed"):
        teach(tmp_path, many(100), settings, name="a", broken="ConnectionError")
    rationales, _ = teach(tmp_path, many(100), settings, name="b")
    assert {r.status for r in rationales} == {"answered"}


@pytest.fixture(autouse=True)
def no_endpoint_is_looked_for(monkeypatch):
    monkeypatch.setattr(teacher.endpoint, "check", lambda config: None)
