"""Every rationale gets one verdict, every verdict one reason, and the account adds up, whatever the teacher wrote."""

import itertools
import math
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from infra.progress import Progress
from pipelines.records import Condition, Question, Rationale, Verdict, pairing, tables
from pipelines.verification import stage as verification
from pipelines.verification.config import Selection, VerifyConfig
from tests.pipelines.fixtures import question, rationale

RIGHT = "Round pores between bright dendrites are seen.\nAnswer: cast (B)"
WRONG = RIGHT.replace("cast (B)", "mill (A)")


def probe(text, condition="absent", **changes):
    return rationale(text, id=f"p-{condition}", condition=condition, **changes)


def verify(*rationales, **settings):
    return verification.verify(question(), rationales, VerifyConfig(**settings))


def run(folder, questions, rationales, **settings):
    """Run the stage on these tables. Returns its tally and the verdicts that it wrote."""
    for name in ("questions", "rationales", "draft"):
        (folder / name).mkdir(parents=True)
    tables.write(folder / "questions", Question, questions)
    tables.write(folder / "rationales", Rationale, rationales)
    figures = {"output_tokens": 1200, "engine_seconds_now": 60.0, "gpu_seconds_now": 0.0}
    inputs = {
        name: SimpleNamespace(path=folder / name, tally={"metrics": figures}) for name in ("questions", "rationales")
    }
    task = SimpleNamespace(
        config=VerifyConfig(**settings), inputs=inputs, draft=folder / "draft", progress=Progress("verify")
    )
    tally = verification.run(task)
    assert [path.name for path in task.draft.iterdir()] == ["verdicts.parquet"]
    return tally, tables.read(task.draft, Verdict)


def test_agreement_is_the_share_of_unaided_rationales_with_the_same_letter():
    said = [RIGHT, WRONG, RIGHT, "Nothing."]
    rationales = [rationale(text, id=f"r{n}", number=n) for n, text in enumerate(said)]
    told = rationale(RIGHT, id="h", hinted=True)
    assert [v.agreement for v in verify(*rationales, told)] == [0.5, 0.25, 0.5, 0, 0.5]
    assert [v.agreement for v in verify(told)] == [0]


@pytest.mark.parametrize(
    ("probes", "not_needed"),
    [
        ([], None),
        ([probe("", status="failed", error="timeout")], None),
        ([probe(RIGHT), probe(RIGHT, "shuffled")], True),
        ([probe(RIGHT), probe(WRONG, "shuffled")], False),
        ([probe(RIGHT), probe("I see nothing.", "shuffled")], False),
        ([probe(RIGHT), probe("", "shuffled", status="failed", error="timeout")], False),
    ],
)
def test_the_image_is_not_needed_when_every_other_condition_gives_the_same_letter(probes, not_needed):
    (verdict,) = verify(rationale(RIGHT), *probes, image_not_needed_weight=0.25)
    assert verdict.image_not_needed is not_needed
    assert verdict.weight == (0.25 if not_needed else 1)
    assert verdict.accepted
    (verdict,) = verify(rationale(RIGHT), *probes, image_not_needed_weight=0)
    assert verdict.reason == ("image_not_needed" if not_needed else "accepted")
    assert verdict.selected is (not not_needed)


def test_a_rationale_without_a_letter_never_shows_that_the_image_is_not_needed():
    nothing = "I see nothing at all here, and say so."
    (verdict,) = verify(rationale(nothing), probe(nothing), probe(nothing, "shuffled"), image_not_needed_weight=0)
    assert (verdict.image_not_needed, verdict.reason) == (False, "no_answer")


def test_those_that_teach_are_chosen_by_number_and_never_with_a_hint_beside_one_without():
    told = rationale(RIGHT, id="h", hinted=True)
    late, early = (rationale(RIGHT, id=f"r{n}", number=n) for n in (1, 0))
    assert [(v.rationale_id, v.selected) for v in verify(told, late, early)] == [
        ("h", False),
        ("r1", False),
        ("r0", True),
    ]
    assert [v.selected for v in verify(rationale(WRONG), told)] == [False, True]


def test_the_tally_counts_rationales_reasons_questions_and_probes(tmp_path):
    asked = [question(id=f"q{n}") for n in range(4)]
    asked.insert(1, question(id="t", split="test"))
    rationales = [
        rationale(RIGHT, id="a", question_id="q0"),
        rationale(WRONG, id="b", question_id="q0", number=1),
        probe(RIGHT, question_id="q0"),
        rationale("", id="c", question_id="q2", status="quarantined", error="damaged_image"),
        rationale("", id="d", question_id="q3", status="failed", error="timeout"),
        rationale(RIGHT, id="e", question_id="q3", number=1),
        probe(WRONG, question_id="q3"),
    ]
    tally, verdicts = run(tmp_path, asked, rationales)
    assert [(v.rationale_id, v.question_id) for v in verdicts] == [
        ("a", "q0"),
        ("b", "q0"),
        ("c", "q2"),
        ("d", "q3"),
        ("e", "q3"),
    ]
    assert tally.rows == {
        "rationales": 5,
        "accepted": 2,
        "rejected": 1,
        "failed": 1,
        "quarantined": 1,
        "selected": 2,
        "questions": 3,
        "questions_taught": 2,
        "probes": 2,
    }
    assert tally.reasons == {"answer_disagrees_with_gold": 1, "timeout": 1}
    assert tally.quarantined == {"damaged_image": 1}
    assert tally.metrics == {
        "accepted_share": 0.4,
        "agreement": 0.5,
        "image_not_needed_share": 0.25,
        "output_tokens_per_accepted": 600.0,
        "engine_seconds_per_accepted": 30.0,
    }
    assert tally.facts["rejected"] == {"answer_disagrees_with_gold": 1}
    assert tally.facts["failed"] == {"timeout": 1}
    assert tally.facts["rules"] == {}


@pytest.mark.parametrize("hinted", [False, True])
def test_questions_that_students_are_only_watched_on_are_counted_apart_from_those_that_teach(tmp_path, hinted):
    asked = [question(id=f"q{n}", split="validation" if n == 1 else "train") for n in range(3)]
    rationales = [rationale(RIGHT, id=q.id, question_id=q.id, hinted=hinted and q.id == "q2") for q in asked]
    tally, _ = run(tmp_path, asked, rationales, max_hinted_share=0.0)
    assert tally.rows["selected"] == 3 - hinted
    assert (tally.rows["questions_taught"], tally.rows["questions_watched"]) == (2 - hinted, 1)


def test_the_tally_counts_rejections_by_rule_of_phrases(tmp_path):
    said = ["By the caption it is cast.", "The captions say it is cast.", "The legend says that it is cast.", WRONG]
    said += ["Both images show that it is cast."]
    texts = [RIGHT, *(f"{text}\nAnswer: cast (B)" for text in said)]
    rationales = [rationale(text, id=f"r{n}", number=n) for n, text in enumerate(texts)]
    tally, verdicts = run(tmp_path, [question(id="q1")], rationales)
    assert tally.facts["rules"] == {
        "chatter": {"answer_inside": 1},
        "cites_caption": {"caption": 2, "legend_says": 1},
        "cites_missing_image": {"pair_of_images": 1},
    }
    assert tally.facts["strata"]["seen"] == {
        "reasons": {"cites_caption": 3, "accepted": 1, "chatter": 1, "cites_missing_image": 1},
        "rules": {"caption": 2, "legend_says": 1, "answer_inside": 1, "pair_of_images": 1},
    }
    assert [v.rule for v in verdicts] == [None, "caption", "caption", "legend_says", "answer_inside", "pair_of_images"]


@pytest.mark.parametrize(("share", "kept"), [(0, 0), (0.1, 1), (0.5, 9), (0.25, 3), (1, 12)])
def test_at_most_a_share_of_those_that_teach_was_told_the_answer(tmp_path, share, kept):
    asked = [question(id=f"q{n:02}") for n in range(21)]
    rationales = [rationale(RIGHT, id=f"r{n:02}", question_id=q.id, hinted=n >= 9) for n, q in enumerate(asked)]
    tally, verdicts = run(tmp_path / "a", asked, rationales, max_hinted_share=share)
    teaching = {v.rationale_id for v in verdicts if v.selected and v.hinted}
    assert len(teaching) == kept == tally.rows.get("selected_hinted", 0)
    assert tally.rows["selected"] == tally.rows["questions_taught"] == 9 + kept
    assert tally.reasons.get("hinted_over_share", 0) == 12 - kept
    assert {v.reason for v in verdicts if v.hinted and not v.selected} <= {"hinted_over_share"}
    # Which ones they are does not depend on their place.
    _, moved = run(tmp_path / "b", asked[::-1], rationales[::-1], max_hinted_share=share)
    assert {v.rationale_id for v in moved if v.selected and v.hinted} == teaching


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (["q1", "q0"], "question q0 are not together, or not in the order"),
        (["q0", "q1", "q0"], "question q0 are not together"),
        (["q0", "x"], "question x, and .* has no such question for training"),
        (["q0", "t"], "question t, and .* has no such question for training"),
    ],
)
def test_rows_about_no_training_question_or_out_of_order_are_refused(tmp_path, order, message):
    asked = [question(id="q0"), question(id="t", split="test"), question(id="q1")]
    with pytest.raises(InputError, match=message):
        run(tmp_path, asked, [rationale(RIGHT, question_id=about) for about in order])


def test_nothing_is_sealed_when_nothing_may_teach(tmp_path):
    with pytest.raises(InputError, match=r"None of 1 rationales was accepted: {'answer_disagrees_with_gold': 1}"):
        run(tmp_path / "a", [question()], [rationale(WRONG)])
    with pytest.raises(InputError, match="hinted_over_share"):
        run(tmp_path / "b", [question()], [rationale(RIGHT, hinted=True)])
    with pytest.raises(InputError, match="None of 0 rationales"):
        run(tmp_path / "c", [question()], [])


def test_too_few_accepted_rationales_stop_the_stage_with_what_to_type(tmp_path):
    asked = [question(id=f"q{n}") for n in range(3)]
    rationales = [rationale(RIGHT if n else WRONG, id=f"r{n}", question_id=q.id) for n, q in enumerate(asked)]
    with pytest.raises(
        InputError, match=r"2 of 3 rationales were accepted: .* asks for 3.*--set verify.min_accepted=0"
    ):
        run(tmp_path / "a", asked, rationales, min_accepted=3)
    assert run(tmp_path / "b", asked, rationales, min_accepted=2)[0].rows["accepted"] == 2


@pytest.mark.parametrize("text", [WRONG, "Nothing."])
def test_where_none_need_be_accepted_all_are_sealed_with_their_reasons(tmp_path, text):
    tally, verdicts = run(tmp_path, [question()], [rationale(text)], min_accepted=0)
    assert [(v.accepted, v.selected) for v in verdicts] == [(False, False)]
    assert (tally.rows["accepted"], tally.rows["selected"], tally.rows["questions_taught"]) == (0, 0, 0)
    assert sum(tally.reasons.values()) == 1
    assert all(math.isfinite(figure) for figure in tally.metrics.values())


def test_a_group_of_rows_is_paired_with_its_question_as_they_come(tmp_path):
    tables.write(tmp_path, Question, [question(id=f"q{n}") for n in range(3)])
    rows = iter([rationale(question_id="q0"), rationale(question_id="q0"), rationale(question_id="q2")])
    assert [(q.id, len(own)) for q, own in pairing.by_question(tmp_path, rows)] == [("q0", 2), ("q2", 1)]


TEXTS = st.sampled_from([RIGHT, WRONG, "Nothing.", "", "By the caption it is option B.\nAnswer: cast (B)"]) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=30
)
ROWS = st.fixed_dictionaries(
    {
        "question_id": st.sampled_from([f"q{n}" for n in range(5)]),
        "text": TEXTS,
        "condition": st.sampled_from([Condition.REAL, Condition.REAL, Condition.ABSENT, Condition.SHUFFLED]),
        "number": st.integers(0, 3),
        "hinted": st.booleans(),
        "status": st.sampled_from(["answered", "answered", "answered", "failed", "quarantined"]),
        "error": st.sampled_from([None, "truncated", "damaged_image"]),
        "finish_reason": st.sampled_from(["stop", "stop", "length", "error"]),
    }
)
SETTINGS = st.fixed_dictionaries(
    {
        "keep": st.integers(1, 3),
        "selection": st.sampled_from(Selection),
        "max_hinted_share": st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]) | st.floats(0, 1),
        "image_not_needed_weight": st.sampled_from([0.0, 0.5, 1.0]),
        "options_are_shuffled": st.booleans(),
        "min_words": st.sampled_from([0, 5]),
    }
)
_fresh = itertools.count()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ROWS, max_size=25), SETTINGS)
def test_whatever_the_teacher_wrote_the_account_adds_up(tmp_path, rows, settings):
    rows = [row | {"id": f"r{n}"} for n, row in enumerate(sorted(rows, key=lambda row: row["question_id"]))]
    asked = [question(id=f"q{n}") for n in range(5)]
    rationales = [rationale(**row) for row in rows]
    real = [r for r in rationales if r.condition == Condition.REAL]
    try:
        tally, verdicts = run(tmp_path / str(next(_fresh)), asked, rationales, **settings)
    except InputError as error:
        assert str(error).startswith(f"None of {len(real)} rationales was accepted")
        return
    assert [v.rationale_id for v in verdicts] == [r.id for r in real]
    assert all((v.status == "accepted") == (v.reason == "accepted") == v.accepted for v in verdicts)
    assert tally.rows["rationales"] == len(real)
    assert tally.rows["rationales"] == sum(
        [tally.rows["accepted"], *tally.reasons.values(), *tally.quarantined.values()]
    )
    counted = [sum(own["reasons"].values()) for own in tally.facts["strata"].values()]
    assert sum(counted) == len(real)
    for phrase_reason, rules in tally.facts["rules"].items():
        assert sum(rules.values()) == tally.facts["rejected"][phrase_reason]
    kept_back = [tally.rows.get(status, 0) for status in ("rejected", "failed", "quarantined")]
    assert tally.rows["rationales"] == tally.rows["accepted"] + sum(kept_back)
    teaching = [v for v in verdicts if v.selected]
    assert tally.rows["selected"] == len(teaching) > 0
    assert tally.rows["questions_taught"] == len({v.question_id for v in teaching})
    assert tally.rows["questions"] == len({v.question_id for v in verdicts})
    assert tally.rows.get("probes", 0) == len(rationales) - len(real)
    assert all(v.accepted and v.weight > 0 for v in teaching)
    for own in ([v for v in teaching if v.question_id == q.id] for q in asked):
        assert len(own) <= settings["keep"]
        assert len({v.hinted for v in own}) <= 1
    assert sum(v.hinted for v in teaching) <= settings["max_hinted_share"] * len(teaching) + 1e-9
