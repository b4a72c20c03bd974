"""Rationales of many kinds, written and labelled before the rules had seen them."""

import json
from pathlib import Path

import pytest

from pipelines.verification import checks
from pipelines.verification.config import VerifyConfig
from tests.pipelines.fixtures import question, rationale

ROWS = [json.loads(line) for line in Path(__file__).with_name("rationale_examples.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['kind']}-{row['body'][:30]}")
def test_a_good_rationale_is_spared_and_a_bad_one_is_not(row):
    asked = question(text=row["question"], options=tuple(row["options"]), gold=row["gold"])
    line = f"Answer: {asked.options['ABCD'.index(asked.gold)]} ({asked.gold})"
    told = rationale(f"{row['body']}\n{line}", hinted=row["hinted"])
    judged = checks.judge(told, asked, VerifyConfig(options_are_shuffled=row["shuffled"]))
    assert (judged.reason == "accepted") == row["is_good"], judged
