"""Every rule of phrases finds what its own examples say it finds, in little time, and is shipped with the code."""

import re
import time
import tomllib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pipelines.verification
from pipelines.verification import checks, conclusions, evidence, phrases
from tests.pipelines.fixtures import question

PROJECT = Path(__file__).parents[3]
REASONS = {
    "sees_no_image",
    "cites_caption",
    "cites_history",
    "cites_missing_image",
    "names_option_letters",
    "leaks_hint",
    "chatter",
    "undecided",
}
LOGIC = {"concludes_another", "no_evidence", "other_language"}  # reasons that need more than a phrase


def broken(text, *, hinted=True, asked=None):
    """The rule of phrases that a text breaks; what needs more than a phrase is tested elsewhere."""
    found = checks.broken_rule(checks.Body(text), asked or question(), hinted=hinted, options_are_shuffled=True)
    return found if found and found.check not in LOGIC else None


def test_every_rule_has_a_name_of_its_own_and_belongs_to_a_reason():
    assert Counter(rule.id for rule in phrases.RULES).most_common(1)[0][1] == 1
    assert {rule.check for rule in phrases.RULES} == REASONS
    assert {rule.check for rule in (*conclusions.RULES, *evidence.RULES)} == LOGIC
    assert all(re.fullmatch("[a-z_]+", rule.id) and rule.but_not for rule in phrases.RULES)
    assert all(bool(rule.pattern) != bool(rule.before or rule.after) for rule in phrases.RULES)
    assert all(bool(rule.words) == bool(rule.pattern) for rule in phrases.RULES)


@pytest.mark.parametrize("rule", phrases.RULES, ids=lambda rule: rule.id)
def test_every_rule_finds_its_example_and_nothing_in_what_is_close_to_it(rule):
    found = broken(rule.example)
    assert (found.id, found.check) == (rule.id, rule.check)
    assert [text for text in rule.but_not if broken(text)] == []
    assert (broken(rule.example, hinted=False) is None) == rule.hinted


@pytest.mark.parametrize(
    "rule", [r for r in phrases.RULES if r.check == "cites_missing_image"], ids=lambda rule: rule.id
)
def test_no_rule_finds_an_image_missing_that_is_shown(rule):
    assert broken(rule.example, asked=question(images=("a", "b", "c"))) is None


@pytest.mark.parametrize(
    "rule", [r for r in phrases.RULES if r.check == "names_option_letters"], ids=lambda rule: rule.id
)
def test_a_letter_that_the_question_holds_counts_only_for_rules_that_say_so(rule):
    held = question(text="Which of the arrows A, B, C and D points to a pore?")
    found = broken(rule.example, asked=held)
    assert (found is not None) == (rule.own_letters or bool(rule.pattern))


def test_a_letter_before_its_own_option_has_a_rule_too():
    assert broken("The pores are round, which is D: die cast").id == "option_behind_letter"


@pytest.mark.parametrize(
    "rule", [r for r in phrases.RULES if r.pattern and r.check != "names_option_letters"], ids=lambda rule: rule.id
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(st.data())
def test_every_text_with_a_rules_phrase_has_one_of_its_words(rule, data):
    text = data.draw(st.from_regex(rule.pattern, fullmatch=True, alphabet=st.characters(codec="ascii")))
    assert not set(rule.words).isdisjoint(checks.words(phrases.plain(text).lower()))


def test_a_text_of_near_misses_takes_bounded_time():
    started = time.process_time()
    for rule in phrases.RULES:
        for near in rule.but_not:
            broken(f"{near} " * (20_000 // len(near)), asked=question(images=("a", "b", "c")))
    assert time.process_time() - started < 6


def test_another_rule_is_another_digest_and_another_example_is_not(monkeypatch):
    first, *others = phrases.RULES
    before = phrases.digest()
    monkeypatch.setattr(phrases, "RULES", (phrases.dataclasses.replace(first, example="else"), *others))
    assert phrases.digest() == before
    monkeypatch.setattr(phrases, "RULES", (phrases.dataclasses.replace(first, pattern="else"), *others))
    assert phrases.digest() != before


def test_data_files_lie_beside_the_modules_that_read_them_and_are_packaged():
    assert Path(phrases.__file__).parent == Path(pipelines.verification.__file__).parent
    packaged = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["*"]
    data = {f"*{path.suffix}" for path in (PROJECT / "pipelines").rglob("*.*") if path.suffix in {".toml", ".j2"}}
    assert data == {"*.toml", "*.j2"} <= set(packaged)
