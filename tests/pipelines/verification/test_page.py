"""The page shows every reason and rule, bounded in number and size, whatever the teacher wrote."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra import manifest
from pipelines.records import Verdict, tables
from pipelines.verification import page
from tests.pipelines.fixtures import put, put_questions, question, verdict

HOSTILE = '<script>alert("x")</script> {{ 7 * 7 }} <img src=http://example.com/x>'


def sealed_run(folder, verdicts, asked=None, side=900):
    asked = asked or [question()]
    put_questions(folder, asked, {path: Image.new("RGB", (side, side), "red") for q in asked for path in q.images})
    put(folder, "verdicts", lambda draft: tables.write(draft, Verdict, verdicts))
    return folder


def test_all_is_escaped_and_nothing_is_fetched(tmp_path, capsys):
    asked = question(text=HOSTILE, options=(HOSTILE, "cast"))
    sealed_run(tmp_path, [verdict(text=HOSTILE, reason='x"><b>', rule="caption", status="rejected")], [asked])
    page.main([str(tmp_path)])
    written = tmp_path / "verdicts.html"
    assert capsys.readouterr().out.strip() == str(written)
    html = written.read_text()
    assert "<script" not in html and "<b>" not in html and "{{ 7 * 7 }}" in html
    assert re.findall(r"(?:src|href)=\"(?!#|data:image/jpeg;base64,)", html) == []
    assert "rule caption" in html


def test_images_are_small_and_a_lost_one_does_no_harm(tmp_path):
    many = question(images=tuple(f"images/00000.zip/{n}.png" for n in range(9)), image_digests=("a" * 64,) * 9)
    folder = sealed_run(tmp_path, [verdict()], [many])
    html = page.page(folder / "questions", folder / "verdicts")
    assert html.count("data:image/jpeg") == 4 and "and 5 more" in html
    assert len(html) < 60_000
    (manifest.find(folder / "questions").path / "images" / "00000.zip").unlink()
    assert page.page(folder / "questions", folder / "verdicts").count("cannot be read") == 4


def test_rare_reasons_are_shown_beside_frequent_ones_and_a_long_text_is_cut(tmp_path):
    rows = [verdict(rationale_id=f"a{n:03}", text="x" * 10_000) for n in range(300)]
    rows += [verdict(rationale_id="b", reason="leaks_hint", rule="as_told", status="rejected")]
    folder = sealed_run(tmp_path, rows, side=30)
    html = page.page(folder / "questions", folder / "verdicts", count=20)
    assert html.count("<article") == 20 and "rule as_told" in html and "19 of 300 are shown" in html
    assert "x" * 4001 not in html


@given(
    st.lists(st.tuples(st.text("abc", min_size=1, max_size=3), st.sampled_from("xyz")), unique=True), st.integers(0, 9)
)
def test_rows_are_chosen_group_by_group_and_never_twice(rows, count):
    ids, groups = [row for row, _ in rows], [group for _, group in rows]
    places = page.chosen(ids, groups, count)
    assert len(places) == len(set(places)) == min(count, len(rows))
    shown = [sum(groups[place] == group for place in places) for group in set(groups)]
    whole = [groups.count(group) for group in set(groups)]
    assert all(few >= min(own, max(shown) - 1) for few, own in zip(shown, whole, strict=True))


def test_a_run_without_verdicts_is_told_what_to_do(tmp_path, capsys):
    with pytest.raises(SystemExit):
        page.main([str(tmp_path)])
    assert "run the stage verify first" in capsys.readouterr().err
