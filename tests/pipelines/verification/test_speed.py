"""Judging takes time in proportion to the text, whatever the text is."""

import time

import pytest

from pipelines.verification import checks
from pipelines.verification.config import VerifyConfig
from tests.pipelines.fixtures import question, rationale

ENDLESS = VerifyConfig(options_are_shuffled=True, min_words=0, max_words=10**9, max_repeated_share=1)
ASKED = question(text="Is there a mass in panels A and B?", options=("larger in A", "larger in B", "3", "no mass"))
SEEDS = (
    "the answer is ",
    "no mass, so ",
    "larger in A than ",
    "the patient, a ",
    "step 1: ",
    "as the ",
    "is stated that a ",
    "A. mass ",
    "no no no ",
    "larger larger ",
    "1 2 3 ",
    "图",
    ". ",
)


def seconds(text):
    started = time.process_time()
    checks.judge(rationale(f"{text}The rim is bright.\nAnswer: larger in B (B)", hinted=True), ASKED, ENDLESS)
    return time.process_time() - started


@pytest.mark.parametrize("seed", SEEDS)
def test_four_times_the_text_takes_about_four_times_as_long(seed):
    short, long = (min(seconds(seed * (size // len(seed))) for _ in range(2)) for size in (20_000, 80_000))
    assert long < 8 * short + 0.1
