"""Accuracies as JUnit XML."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InputError
from pipelines.examination import junit
from tests.pipelines.fixtures import prediction

HOSTILE = st.text(max_size=12) | st.sampled_from(['"><failure/>', "]]>", "&amp;", "\x00\x1b\ufffe", "<!--"])


def cases(path):
    return ET.parse(path).getroot().findall("testsuite/testcase")


@given(stratum=HOSTILE, source=HOSTILE, model=HOSTILE)
def test_whatever_a_set_a_stratum_or_a_model_is_called_the_file_is_xml_with_these_cases(
    tmp_path_factory, stratum, source, model
):
    path = tmp_path_factory.mktemp("junit") / "deep/er.xml"
    rows = [prediction("A", source=source, stratum=stratum, model=model)]
    junit.write(path, junit.scores(rows), "zero_shot/real", 0.5)
    found = cases(path)
    assert len(found) == (2 if stratum else 1)
    assert found[0].get("name") == junit.ALL
    assert [len(case.findall("failure")) for case in found] == [1, *[0] * (len(found) - 1)]


def test_only_the_answer_that_counts_is_scored_and_what_has_no_letter_is_wrong():
    rows = [
        prediction("B"),
        prediction("A", rotation=1, gold="A"),
        prediction("C", repeat=1),
        prediction(None, stratum="unseen"),
        prediction("A", prompt="letter"),
    ]
    told = [(s.entry, s.stratum, s.asked, s.correct, s.unscored) for s in junit.scores(rows)]
    assert told == [
        ("zero_shot/real", "", 2, 1, 1),
        ("zero_shot/real", "seen", 1, 1, 0),
        ("zero_shot/real", "unseen", 1, 0, 1),
        ("zero_shot+letter/real", "", 1, 0, 0),
        ("zero_shot+letter/real", "seen", 1, 0, 0),
    ]


def test_sets_are_suites_and_only_the_primary_entry_on_all_questions_can_fail(tmp_path):
    rows = [prediction("A", file=file, arm=arm) for file in ("1.csv", "2.csv") for arm in ("zero_shot", "teacher")]
    junit.write(tmp_path / "x.xml", junit.scores(rows), "zero_shot/real", 0.1)
    suites = ET.parse(tmp_path / "x.xml").getroot().findall("testsuite")
    assert [(s.get("name"), s.get("tests"), s.get("failures")) for s in suites] == [
        ("test, 1.csv", "4", "1"),
        ("test, 2.csv", "4", "1"),
    ]
    (failed,) = [case for case in suites[0] if case.find("failure") is not None]
    assert failed.get("classname") == "test, 1.csv: zero_shot/real of m"
    assert failed.find("failure").get("message").endswith("accuracy 0.0000 (0 of 1) is below 0.1")
    junit.write(tmp_path / "y.xml", junit.scores(rows), "zero_shot/real", None)
    assert not [case for case in cases(tmp_path / "y.xml") if case.find("failure") is not None]


def test_a_file_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--junit .*cannot be written"):
        junit.write(tmp_path / "file" / "x.xml", [], "zero_shot/real", None)
