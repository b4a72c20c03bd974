import dataclasses

import pytest

from pipelines.inference.requests import Teacher, is_probed, requests_of, teacher_digest
from tests.pipelines.fixtures import question
from tests.pipelines.teaching.fixtures import TEACHER, config, many

DONOR = question(id="q9", images=("images/9.png",), image_digests=("9" * 64,))


def ids(asked, settings=None, teacher=TEACHER, donor=None):
    return [request.id for request in requests_of(asked, settings or config(), teacher, donor)]


def test_each_rationale_of_a_question_is_a_request_with_seeds_of_its_own():
    asked = requests_of(question(), config(num_rationales=3), TEACHER)
    assert [request.number for request in asked] == [0, 1, 2]
    assert len({request.id for request in asked}) == 3
    assert len({request.seed(attempt) for request in asked for attempt in range(2)}) == 6


def test_asking_for_more_rationales_keeps_the_ones_that_there_are():
    assert ids(question(), config(num_rationales=4))[:2] == ids(question(), config(num_rationales=2))


@pytest.mark.parametrize(
    "changes", [{"text": "Which?"}, {"image_digests": ("b" * 64,)}, {"options": ("cast", "mill", "press", "die cast")}]
)
def test_another_question_is_another_request(changes):
    assert ids(question()) != ids(question(**changes))


def test_the_same_question_of_another_source_or_split_is_the_same_request():
    assert ids(question()) == ids(question(id="q2", source="other", split="test", row=7, gold="C"))


def test_where_its_images_lie_makes_no_other_request_and_a_request_names_those_that_it_shows():
    moved = question(images=("images/00007.zip/z.jpeg",))
    assert ids(moved) == ids(question())
    asked = requests_of(moved, config(), TEACHER, donor=DONOR)
    assert [(request.images, request.image_digests) for request in asked] == [
        (moved.images, moved.image_digests),
        ((), ()),
        (DONOR.images, DONOR.image_digests),
    ]


def test_another_teacher_or_sampling_is_another_request():
    others = (
        dataclasses.replace(TEACHER, digest="e" * 64),
        dataclasses.replace(TEACHER, sampling={"temperature": 1.0}),
    )
    assert len({ids(question(), teacher=teacher)[0] for teacher in (TEACHER, *others)}) == 3
    renamed = dataclasses.replace(TEACHER, name="the same weights elsewhere")
    assert ids(question(), teacher=renamed) == ids(question())


def test_a_named_revision_is_another_teacher_and_stands_in_its_name():
    plain, pinned = config(endpoint="http://e/v1"), config(endpoint="http://e/v1", revision="abc")
    assert teacher_digest(plain) != teacher_digest(pinned)
    assert Teacher.of(pinned, "d").name == f"{pinned.teacher}@abc"


def test_settings_that_do_not_change_what_is_written_do_not_change_the_request():
    settings = config(batch_size=3, attempts=7, timeout_s=1.0, max_failed_share=1.0)
    assert Teacher.of(settings, "d").sampling == Teacher.of(config(), "d").sampling
    assert ids(question(), settings) == ids(question())


def test_what_is_asked_for_its_likeliest_tokens_is_asked_anew_and_an_endpoint_that_cannot_tell_them_is_refused():
    kept = config(top_logprobs=8)
    assert ids(question(), kept, Teacher.of(kept, "d")) != ids(question(), config(), Teacher.of(config(), "d"))
    with pytest.raises(ValueError, match="top_logprobs is 8, and an endpoint tells no token's number"):
        config(top_logprobs=8, endpoint="http://e/v1")


def test_a_probe_has_no_image_or_anothers_and_the_same_words():
    plain, absent, shuffled = requests_of(question(), config(), TEACHER, DONOR)
    assert (absent.condition, absent.images) == ("absent", ())
    assert (shuffled.condition, shuffled.images) == ("shuffled", DONOR.images)
    assert plain.prompt == absent.prompt == shuffled.prompt
    assert [r.is_probe for r in (plain, absent, shuffled)] == [False, True, True]


def test_the_hinted_request_comes_last_tells_the_answer_and_is_off_unless_asked_for():
    assert not any(r.hinted for r in requests_of(question(), config(), TEACHER, DONOR))
    *others, hinted = requests_of(question(), config(rationalise=True), TEACHER, DONOR)
    assert hinted.hinted
    assert "The right option is cast (B)." in hinted.prompt
    assert not any("The right option" in other.prompt for other in others)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_questions_that_are_probed_is_the_recipe_s_and_the_same_in_every_run(share):
    settings = config(grounding_share=share)
    probed = [is_probed(q.id, settings) for q in many(1000)]
    assert probed == [is_probed(q.id, settings) for q in many(1000)]
    assert abs(sum(probed) / 1000 - share) < 0.05
