import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.inference.reasoning import parse


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("It is round.\nAnswer: B", ("", "It is round.\nAnswer: B", 0)),
        ("It may be A, or B.</think>\n\nRound. Answer: B", ("It may be A, or B.", "Round. Answer: B", 0)),
        ("<think>\nHm.\n</think>\nAnswer: B", ("Hm.", "Answer: B", 0)),
        ("<think>Hm, and then it was cut", ("Hm, and then it was cut", "", 0)),
        ("One </think> two </think> Answer: B", ("One  two", "Answer: B", 0)),
        ("See <|vision_start|><|image_pad|><|vision_end|>it.", ("", "See it.", 3)),
        ("<thinking>Hm.</thinking>Answer: B", ("Hm.", "Answer: B", 0)),
        ("◁think▷Hm.◁/think▷Answer: B", ("Hm.", "Answer: B", 0)),
        ("Hm.</think><think>and again", ("Hm.and again", "", 0)),
        ("a < b and <b>bold</b> stay", ("", "a < b and <b>bold</b> stay", 0)),
        ("half \ud83d of a character", ("", "half ? of a character", 0)),
    ],
)
def test_thoughts_are_told_from_text_and_stray_tokens_are_taken_out_and_counted(written, expected):
    assert parse(written) == expected


@given(st.text(st.characters(exclude_categories=())))
def test_whatever_was_written_can_be_stored(written):
    thoughts, text, num_stray = parse(written)
    assert (thoughts + text).encode().decode() == thoughts + text
    assert num_stray >= 0
