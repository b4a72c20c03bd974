"""The examples that go before a test question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.examination.few_shot import FewShot, share_an_origin
from pipelines.records import Question, tables
from pipelines.records.entries import Entry
from tests.pipelines.fixtures import question

ENTRY = Entry.parse("zero_shot+3shot/real")


def taught(number, **changes):
    return question(**{"id": f"t{number}", "images": (f"t{number}",), "image_digests": (f"t{number}",)} | changes)


def images_before(few_shot, asked, entry=ENTRY):
    return [example.images[0] for example in few_shot.before(asked, entry, final_line=False)]


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)), max_size=30),
    st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)),
)
def test_no_example_shares_an_image_a_figure_or_an_article_with_the_question(rows, own):
    def made(name, row):
        image, figure, article = map(str, row)
        return question(
            id=name,
            images=(name,),
            image_digests=(image,),
            figure=figure if figure != "0" else "",
            article=article if article != "0" else "",
        )

    pool = {f"t{n}": made(f"t{n}", row) for n, row in enumerate(rows)}
    asked = made("q", own)
    try:
        names = images_before(FewShot({"test": list(pool.values())}, None), asked)
    except InputError:
        return
    assert len(names) == len(set(names)) == 3
    shown = [pool[name] for name in names]
    assert not any(share_an_origin(asked, each) for each in shown)
    assert not any(share_an_origin(one, two) for one in shown for two in shown if one is not two)


def test_examples_are_training_questions_that_may_teach_and_follow_from_the_seed(tmp_path):
    table = [*(taught(n) for n in range(40)), taught(90, split="test"), taught(91, split="validation")]
    table += [taught(92, evaluation_only=True), taught(93, source="other")]
    tables.write(tmp_path, Question, table)
    asked = question(id="q", split="test")
    drawn = {seed: images_before(FewShot.drawn(tmp_path, None, seed), asked) for seed in (0, 0, 1)}
    assert drawn[0] != drawn[1]
    assert images_before(FewShot.drawn(tmp_path, None, 0), asked) == drawn[0]
    allowed = {f"t{n}" for n in range(40)}
    many = Entry.parse("zero_shot+16shot/real")
    assert set(images_before(FewShot.drawn(tmp_path, None, 0), asked, many)) <= allowed
    assert images_before(FewShot.drawn(tmp_path, "other", 0), asked, Entry.parse("zero_shot+1shot/real")) == ["t93"]


def test_a_set_without_training_questions_says_which_source_may_lend_them(tmp_path):
    tables.write(tmp_path, Question, [taught(n, source="PMC-VQA") for n in range(4)])
    few_shot = FewShot.drawn(tmp_path, None, 0)
    with pytest.raises(InputError, match=r"needs 3 training questions of MatCha .*few_shot_source=NAME, of PMC-VQA"):
        few_shot.before(question(id="q", source="MatCha"), ENTRY, final_line=False)


def test_only_the_first_of_very_many_candidates_are_kept(tmp_path, monkeypatch):
    tables.write(tmp_path, Question, [taught(n) for n in range(300)])
    whole = FewShot.drawn(tmp_path, None, 0)._candidates["test"]
    monkeypatch.setattr("pipelines.examination.few_shot._CANDIDATES", 10)
    assert FewShot.drawn(tmp_path, None, 0)._candidates["test"] == whole[:10]
