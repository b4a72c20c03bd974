import dataclasses

import pytest

from pipelines.inference.ledger import Ledger
from pipelines.inference.request_set import read_batch
from pipelines.teaching.requests import inference, is_probed, request_set, requests_of
from tests.pipelines.fixtures import question
from tests.pipelines.teaching.fixtures import config, many, own, put_many

OTHER = question(id="q9", images=("images/9.png",), image_digests=("9" * 64,))


def asked(of, settings=None, how=None, other=None):
    settings = settings or config()
    return requests_of(of, settings, how or own(settings), {of.id: other})


def ids(of, settings=None, how=None):
    return [request.id for request in asked(of, settings, how)]


def changed(what, **changes):
    """How the teacher is asked, with a change in its model or sampling."""
    how = own(config())
    return dataclasses.replace(how, **{what: dataclasses.replace(getattr(how, what), **changes)})


def test_each_rationale_of_a_question_is_a_request_with_seeds_of_its_own():
    made = asked(question(), config(num_rationales=3))
    assert [request.number for request in made] == [0, 1, 2]
    assert len({request.id for request in made}) == 3
    assert len({request.seed(attempt) for request in made for attempt in range(2)}) == 6


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
    made = asked(moved, other=OTHER)
    assert [(request.images, request.image_digests) for request in made] == [
        (moved.images, moved.image_digests),
        ((), ()),
        (OTHER.images, OTHER.image_digests),
    ]


@pytest.mark.parametrize(
    ("what", "changes"),
    [
        ("model", {"digest": "e" * 64}),
        ("model", {"base_digest": "b" * 64}),
        ("model", {"engine": {"dtype": "float16", "max_model_len": 4096}}),
        ("sampling", {"temperature": 0.9}),
        ("sampling", {"seed": 3}),
        ("sampling", {"max_tokens": 7}),
    ],
)
def test_another_model_engine_setting_or_sampling_is_another_request(what, changes):
    assert ids(question(), how=changed(what, **changes)) != ids(question())


@pytest.mark.parametrize(
    ("what", "changes"), [("model", {"name": "the same weights elsewhere"}), ("sampling", {"logprobs": False})]
)
def test_the_name_of_a_model_and_whether_logprobs_are_reported_make_no_other_request(what, changes):
    assert ids(question(), how=changed(what, **changes)) == ids(question())


def test_a_named_revision_is_another_teacher():
    plain, pinned = (inference(config(endpoint="http://e/v1", revision=revision)) for revision in (None, "abc"))
    assert plain.model.digest != pinned.model.digest
    assert pinned.model.revision == "abc"


def test_settings_that_do_not_change_what_is_written_do_not_change_the_request():
    settings = config(batch_size=3, attempts=7, timeout_s=1.0, max_failed_share=1.0)
    assert own(settings).sampling == own(config()).sampling
    assert ids(question(), settings) == ids(question())


def test_what_is_asked_for_its_likeliest_tokens_is_asked_anew_and_an_endpoint_that_cannot_tell_them_is_refused():
    assert ids(question(), how=changed("sampling", top_logprobs=8)) != ids(question())
    with pytest.raises(ValueError, match="top_logprobs is 8, and an endpoint tells no token's number"):
        config(top_logprobs=8, endpoint="http://e/v1")


def test_a_probe_has_no_image_or_anothers_and_the_same_words():
    plain, absent, shuffled = asked(question(), other=OTHER)
    assert (absent.condition, absent.images) == ("absent", ())
    assert (shuffled.condition, shuffled.images) == ("shuffled", OTHER.images)
    assert plain.prompt == absent.prompt == shuffled.prompt
    assert [r.needs_answer for r in (plain, absent, shuffled)] == [True, False, False]


def test_the_hinted_request_comes_last_tells_the_answer_and_is_off_unless_asked_for():
    assert not any(r.hinted for r in asked(question(), other=OTHER))
    *others, hinted = asked(question(), config(rationalise=True), other=OTHER)
    assert hinted.hinted
    assert "The right option is cast (B)." in hinted.prompt
    assert not any("The right option" in other.prompt for other in others)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_share_of_questions_that_are_probed_is_the_recipe_s_and_the_same_in_every_run(share):
    settings = config(grounding_share=share)
    probed = [is_probed(q.id, settings) for q in many(1000)]
    assert probed == [is_probed(q.id, settings) for q in many(1000)]
    assert abs(sum(probed) / 1000 - share) < 0.05


def test_questions_to_train_on_and_to_be_watched_on_are_explained_and_test_questions_are_not(tmp_path):
    splits = ["train", "test", "validation", "train"]
    asked = [dataclasses.replace(q, split=split) for q, split in zip(many(4), splits, strict=True)]
    folder = put_many(tmp_path, asked).path
    settings = config()
    plan = request_set(settings, own(settings), folder).write_plan(Ledger(tmp_path / "ledger"), tmp_path / "plan")
    pending = [request for each in read_batch(plan.path, 0) for request, _ in each.requests]
    assert [request.images for request in pending] == [asked[number].images for number in (0, 2, 3)]
