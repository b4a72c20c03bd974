"""All arms learn the same questions and are watched on the same ones, and nothing of those is trained on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.records import Question, TrainingExample, tables
from tests.pipelines.fixtures import question
from tests.train.conftest import config, example
from train import dataset
from train.job import FitJob, Watched

LONG = "long " * 40
OTHER = "rationale_then_answer"


def read(folder, processor, arms, **settings):
    """The dataset split of the first of some arms. arms: name -> its rows."""
    own, *others = arms
    for arm, rows in arms.items():
        (folder / "examples" / arm).mkdir(parents=True, exist_ok=True)
        tables.write(folder / "examples" / arm, TrainingExample, rows)
    job = FitJob(
        config=config(**({"max_length": 150} | settings)),
        base="",
        examples=folder / "examples" / own,
        compared=tuple(folder / "examples" / other for other in others),
        images=folder,
        **dict.fromkeys(("rationales", "checkpoints", "folder"), folder),
    )
    return dataset.read(job, processor, vocab_size=300)


def learnt(encoded, processor):
    """The targets of encoded examples."""
    return [processor.tokenizer.decode(one.input_ids[-one.num_targets : -1]) for one in encoded]


def test_a_question_that_one_arm_cannot_learn_is_left_out_of_all_and_counted(processor, images):
    short = [example(n, f"({n})") for n in range(4)]
    marked = example(1, "<|im_end|>", prompt="Other")
    long = [example(2, LONG), *(example(n, f"It is {n}.") for n in (0, 3, 3)), marked]
    own = read(images, processor, {"answer_only": short, OTHER: long})
    assert learnt(own.train, processor) == ["(0)", "(3)"]
    assert own.reasons == {"chat_markup_in_another_arm": 1, "too_long_in_another_arm": 1}
    other = read(images, processor, {OTHER: long, "answer_only": short})
    assert learnt(other.train, processor) == ["It is 0.", "It is 3.", "It is 3."]
    assert other.reasons == {"chat_markup": 1, "too_long": 1}
    alone = read(images, processor, {"answer_only": short})
    assert (len(alone.train), alone.reasons) == (4, {})


def test_what_is_too_long_in_both_arms_is_counted_as_the_arms_own(processor, images):
    rows = [example(0), example(1, LONG)]
    assert read(images, processor, {"answer_only": rows, OTHER: rows}).reasons == {"too_long": 1}


def test_all_examples_of_a_question_go_with_the_one_that_is_too_long(processor, images):
    split = read(images, processor, {"multi_task": [example(0, LONG), example(0, "(A)"), example(1, "(B)")]})
    assert learnt(split.train, processor) == ["(B)"]
    assert split.reasons == {"too_long": 2}


def test_the_validation_split_is_watched_and_never_trained_on(processor, images):
    rows = [example(n, f"({n})", split="train" if n % 3 else "validation") for n in range(9)]
    for share in (0.0, 0.9):  # the fit draws no others where the questions have a validation split
        split = read(images, processor, {"answer_only": rows}, validation_share=share)
        assert learnt(split.held_out, processor) == ["(0)", "(3)", "(6)"]
        assert learnt(split.train, processor) == ["(1)", "(2)", "(4)", "(5)", "(7)", "(8)"]
        assert split.watched == Watched.VALIDATION
    assert split.num_rows == len(split.train) + len(split.held_out)


def test_without_a_validation_split_a_share_is_drawn_the_same_in_every_arm(processor, images):
    tables.write(images, Question, [question(id=str(n), image_digests=(f"{n % 5}",)) for n in range(30)])
    drawn = []
    for arm, target in (("answer_only", "({})"), (OTHER, "It is ({}).")):
        rows = [example(n, target.format(n)) for n in range(30)]
        split = read(images, processor, {arm: rows}, validation_share=0.3)
        assert split.watched == Watched.DRAWN
        assert len(split.train) + len(split.held_out) == 30
        drawn.append({int(text.partition("(")[2].partition(")")[0]) for text in learnt(split.held_out, processor)})
    assert drawn[0] == drawn[1]
    assert {n for n in range(30) if n % 5 in {each % 5 for each in drawn[0]}} == drawn[0]  # no image straddles
    assert read(images, processor, {"answer_only": rows}).watched == Watched.NOTHING


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([example(0, LONG)], r"None of 1 examples can be trained on.*'too_long': 1.*fit\.max_length"),
        (
            [example(0), example(1, LONG, split="validation")],
            r"None of 2 examples is left to be watched.*'too_long': 1",
        ),
    ],
)
def test_a_split_with_nothing_in_it_is_one_clear_error(processor, images, rows, message):
    with pytest.raises(InputError, match=message):
        read(images, processor, {"answer_only": rows})


few = st.integers(0, 5).map(lambda number: str(number or ""))  # empty where it is not known
questions_with_things_in_common = st.lists(st.tuples(few, few, st.lists(few, min_size=1, max_size=3)), min_size=1)


@given(things=questions_with_things_in_common, share=st.floats(0.01, 0.99))
def test_no_article_figure_or_image_is_both_watched_and_trained_on(tmp_path_factory, things, share):
    folder = tmp_path_factory.mktemp("questions")
    asked = [
        question(id=f"q{n}", article=article, figure=figure, image_digests=tuple(filter(None, digests)))
        for n, (article, figure, digests) in enumerate(things)
    ]
    tables.write(folder, Question, asked)
    ids = {each.id for each in asked}
    drawn = dataset.drawn_questions(folder, ids, share)
    assert drawn
    assert drawn <= ids

    def shown(wanted):
        held = [each for each in asked if (each.id in drawn) == wanted]
        named = {("article", each.article) for each in held} | {("figure", each.figure) for each in held}
        return {each for each in named if each[1]} | {digest for each in held for digest in each.image_digests}

    assert not shown(True) & shown(False)


def test_about_the_share_that_is_asked_for_is_drawn_and_a_larger_share_holds_the_smaller(tmp_path):
    tables.write(tmp_path, Question, [question(id=f"q{n}", image_digests=(f"{n // 2}",)) for n in range(2000)])
    ids = {f"q{n}" for n in range(2000)}
    fewer, more = (dataset.drawn_questions(tmp_path, ids, share) for share in (0.1, 0.2))
    assert 150 < len(fewer) < 250
    assert 320 < len(more) < 480
    assert fewer < more
    assert len(dataset.drawn_questions(tmp_path, ids, 1e-9)) == 2  # the group of the lowest digest
