import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.recipes import PLAN
from pipelines.records import Arm, Condition
from pipelines.records.entries import MAX_SHOTS, OWN_PROMPT, Entry, Prompt, by_arm, parsed
from tests.pipelines.fixtures import prediction


@st.composite
def entries(draw):
    prompt = draw(st.sampled_from(Prompt))
    prefilled = prompt in ("rationale", "chain_of_thought") and draw(st.booleans())
    return Entry(
        arm=draw(st.sampled_from(Arm)),
        prompt=prompt,
        num_shots=0 if prompt.wants_reasoning else draw(st.integers(0, MAX_SHOTS)),
        circular=not prefilled and draw(st.booleans()),
        prefilled=prefilled,
        condition=draw(st.sampled_from(Condition)),
    )


@given(entries())
def test_an_entry_is_read_back_from_its_text(entry):
    assert Entry.parse(str(entry)) == entry


@given(entries(), entries())
def test_two_entries_never_have_the_same_text(one, other):
    assert (str(one) == str(other)) == (one == other)


@given(
    st.text(max_size=40)
    | st.lists(st.sampled_from([*Arm, *Prompt, *Condition, "+", "/", "5shot", "circular", "prefilled"])).map("".join)
)
def test_any_other_text_is_refused_with_what_is_allowed(text):
    try:
        entry = Entry.parse(text)
    except ValueError as error:
        assert repr(text)[1:-1] in str(error) or any(
            said in str(error) for said in ("examples show an answer", "at most", "what is prefilled is reasoning")
        )
    else:
        assert Entry.parse(str(entry)) == entry


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("zero_shot/real", Entry(arm=Arm.ZERO_SHOT, prompt=Prompt.ANSWER)),
        ("zero_shot+answer/real", Entry(arm=Arm.ZERO_SHOT, prompt=Prompt.ANSWER)),
        ("zero_shot+rationale/blank", Entry(arm=Arm.ZERO_SHOT, prompt=Prompt.RATIONALE, condition=Condition.BLANK)),
        ("zero_shot+5shot+matcha/real", Entry(arm=Arm.ZERO_SHOT, prompt=Prompt.MATCHA, num_shots=5)),
        ("answer_only+circular/real", Entry(arm=Arm.ANSWER_ONLY, prompt=Prompt.ANSWER, circular=True)),
    ],
)
def test_an_entry_names_who_is_asked_how_and_what_is_shown(text, entry):
    assert Entry.parse(text) == entry


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("zero_shot", "no arm/condition, such as .* An entry is ARM"),
        ("zeroshot/real", "'zeroshot' is no arm. Did you mean 'zero_shot'"),
        ("zero_shot/reel", "'reel' is no condition. Did you mean 'real'"),
        ("zero_shot+rational/real", "'rational' is unknown.* Did you mean 'rationale'"),
        ("zero_shot+0shot/real", "'0shot' is unknown"),
        ("zero_shot+17shot/real", "at most 16 examples"),
        ("zero_shot+answer+letter/real", "names two prompts"),
        ("zero_shot+circular+circular/real", "something twice"),
        ("zero_shot+prefilled/real", "what is prefilled is reasoning, so ask with rationale and chain_of_thought"),
        ("zero_shot+rationale+prefilled+circular/real", "and not in rotation"),
        ("zero_shot+rationale+2shot/real", "no reasoning, so name a prompt .*: answer, matcha, letter"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told(text, why):
    with pytest.raises(ValueError, match=why):
        Entry.parse(text)


def test_what_would_be_asked_twice_is_refused():
    with pytest.raises(ValueError, match="zero_shot/real is named twice"):
        parsed(["zero_shot/real", "zero_shot+answer/real"])
    with pytest.raises(ValueError, match=r"asks all that zero_shot/real asks.*leave zero_shot/real out"):
        parsed(["zero_shot/real", "zero_shot+circular/real"])
    with pytest.raises(ValueError, match=r"goes on from the answers of teacher/blank: name that too"):
        parsed(["teacher+prefilled/blank", "teacher/real"])
    for plain in ("teacher/blank", "teacher+circular/blank"):
        assert len(parsed(["teacher+prefilled/blank", plain])) == 2
    assert len(parsed(["zero_shot/blank", "zero_shot+circular/real"])) == 2


def test_every_arm_has_words_of_its_own_and_the_default_plan_names_them_as_before():
    assert set(OWN_PROMPT) == set(Arm)
    assert tuple(map(str, parsed(PLAN))) == PLAN


def test_arms_come_in_the_plan_s_order():
    plan = parsed(["teacher/real", "zero_shot/real", "teacher/blank"])
    assert {arm: list(map(str, own)) for arm, own in by_arm(plan).items()} == {
        "teacher": ["teacher/real", "teacher/blank"],
        "zero_shot": ["zero_shot/real"],
    }


def test_rows_of_different_words_or_examples_belong_to_different_entries():
    rows = [
        prediction("B"),
        prediction("B", prompt="rationale"),
        prediction("B", prompt="letter"),
        prediction("B", prompt="letter", num_shots=5),
        prediction("B", condition="blank"),
        prediction("B", prompt="rationale", prefill="cut_25"),
    ]
    assert [str(Entry.of(row)) for row in rows] == [
        "zero_shot/real",
        "zero_shot+rationale/real",
        "zero_shot+letter/real",
        "zero_shot+letter+5shot/real",
        "zero_shot/blank",
        "zero_shot+rationale+prefilled/real",
    ]
    assert str(Entry.of(prediction("B", rotation=2, repeat=1))) == "zero_shot/real"
