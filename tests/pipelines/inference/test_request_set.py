import dataclasses

import pytest

from infra.errors import ClusterError, InputError
from pipelines.inference.ledger import Ledger
from pipelines.inference.request_set import RequestSet, read_batch
from pipelines.inference.requests import ExampleTurn
from tests.pipelines.teaching.fixtures import attempt, config, many, prepare, requests, write
from tests.pipelines.teaching.fixtures import own as inference


def planned(plan):
    """The ids of the requests in each batch."""
    return [
        [request.id for each in read_batch(plan.path, number) for request, _ in each.requests]
        for number in range(plan.num_batches)
    ]


def test_without_a_ledger_everything_is_planned_once_in_batches(tmp_path):
    _, plan, asking = prepare(tmp_path, many(10), config(batch_size=4, num_rationales=2))
    assert (plan.num_batches, plan.num_questions, plan.num_open, plan.max_images) == (3, 10, 10, 1)
    assert [len(batch) for batch in planned(plan)] == [8, 8, 4]
    assert [each for batch in planned(plan) for each in batch] == [request.id for request in requests(asking)]


def test_what_is_settled_is_not_planned_and_what_may_be_tried_again_is(tmp_path):
    settings = config(attempts=2)
    ids = [request.id for request in requests(prepare(tmp_path / "first", many(4), settings)[2])]
    failed = attempt(ids[1], status="failed", error="truncated", finish_reason="length")
    _, plan, _ = prepare(
        tmp_path,
        many(4),
        settings,
        [attempt(ids[0]), failed, *[attempt(ids[2], status="failed", error="no_answer")] * 2],
    )
    assert planned(plan) == [[ids[1], ids[3]]]
    assert [spent for each in read_batch(plan.path, 0) for _, spent in each.requests] == [1, 0]


def test_a_finished_ledger_leaves_nothing_to_ask(tmp_path):
    ids = [request.id for request in requests(prepare(tmp_path / "first", many(4), config())[2])]
    _, plan, asking = prepare(tmp_path, many(4), config(), [attempt(each) for each in ids])
    assert (plan.num_open, plan.num_batches) == (0, 0)
    folder = tmp_path / "ledger" / next((tmp_path / "ledger").iterdir()).name
    sealed = list(asking.answers(Ledger(folder)))
    assert [r.request.id for r in sealed] == ids
    assert [r.question.id for r in sealed] == ["q0", "q1", "q2", "q3"]


def test_test_questions_are_never_planned(tmp_path):
    _, plan, _ = prepare(tmp_path, [*many(2), *many(2, split="test")], config())
    assert plan.num_questions == 2


def test_a_question_for_evaluation_alone_is_never_planned(tmp_path):
    with pytest.raises(InputError, match="for evaluation alone"):
        prepare(tmp_path, many(2, evaluation_only=True), config())


def test_a_question_answered_wrongly_is_open_for_its_hint_and_one_answered_rightly_is_not(tmp_path):
    settings = config(rationalise=True)
    asked = requests(prepare(tmp_path / "first", many(2), settings)[2])
    plain = [request.id for request in asked if not request.hinted]
    hinted = [request.id for request in asked if request.hinted]
    written = [attempt(plain[0], letter="B"), attempt(plain[1], letter="A")]
    _, plan, asking = prepare(tmp_path, many(2), settings, written)
    assert planned(plan) == [[hinted[1]]]
    folder = next((tmp_path / "ledger").iterdir())
    write(folder, [attempt(hinted[1])], "e-001")
    assert [(r.question.id, r.request.hinted) for r in asking.answers(Ledger(folder))] == [
        ("q0", False),
        ("q1", False),
        ("q1", True),
    ]


def test_without_their_images_questions_of_the_same_words_are_asked_once_and_answered_each(tmp_path):
    settings = config(grounding_share=1.0)
    _, plan, asking = prepare(tmp_path, many(5), settings)
    ids = [each for batch in planned(plan) for each in batch]
    assert len(ids) == len(set(ids))
    absent = {request.id for request in requests(asking) if request.condition == "absent"}
    assert len(absent) == 1
    folder = next((tmp_path / "ledger").iterdir())
    write(folder, [attempt(each) for each in ids], "e-001")
    sealed = list(asking.answers(Ledger(folder)))
    assert len(sealed) == 15
    assert sum(r.request.condition == "absent" for r in sealed) == 5


def test_a_question_without_another_image_to_show_is_probed_as_far_as_it_goes(tmp_path):
    _, _, asking = prepare(tmp_path, many(1), config(grounding_share=1.0))
    assert [r.condition for r in requests(asking)] == ["real"]


def test_sealing_what_was_never_asked_is_refused(tmp_path):
    _, _, asking = prepare(tmp_path, many(2), config())
    with pytest.raises(ClusterError, match=r"question q0.*Run the stage again"):
        list(asking.answers(Ledger(next((tmp_path / "ledger").iterdir()))))


def test_all_that_a_request_holds_reaches_the_worker(tmp_path):
    _, _, asking = prepare(tmp_path / "first", many(1), config())
    (plain,) = requests(asking)
    turn = ExampleTurn(prompt="What?", images=("a", "b"), image_digests=("1", "2"), answer="A")
    whole = dataclasses.replace(
        plain, system="Be brief.", examples=(turn, turn), options=("x", "y"), entry="zero_shot/real", rotation=1
    )
    own = RequestSet(inference(config()), lambda: iter([(many(1)[0], [whole])]))
    (tmp_path / "ledger").mkdir()
    plan = own.write_plan(Ledger(tmp_path / "ledger"), tmp_path / "plan.arrow")
    (pending,) = read_batch(plan.path, 0)
    assert pending.requests == [(whole, 0)]
    assert plan.max_images == len(plain.images) + 4
