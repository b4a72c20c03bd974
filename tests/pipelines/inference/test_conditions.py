import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.images import decoding
from pipelines.inference import conditions
from pipelines.inference.client import data_url
from pipelines.inference.conditions import Showing
from pipelines.records import Condition, Question, tables
from tests.pipelines.fixtures import put_images, put_other_bytes, question, sealed
from tests.pipelines.fixtures import showing as showing_of

PATH = "images/0.zip/a.png"
PICTURES = {PATH: Image.new("RGB", (4, 4), "red")}


def shows(name, *digests, **changes):
    return question(id=name, images=digests, image_digests=digests, **changes)


def donors(asked):
    return {name: donor.id for name, donor in conditions.donors(asked, seed=0).items()}


def test_a_donor_has_no_image_in_common_and_every_question_has_one():
    asked = [shows(f"q{n}", str(n // 4), f"extra {n % 7}") for n in range(56)]
    digests = {q.id: set(q.image_digests) for q in asked}
    found = donors(asked)
    assert set(found) == set(digests)
    assert all(digests[name].isdisjoint(digests[donor]) for name, donor in found.items())


def test_donors_are_the_same_in_every_run_and_other_ones_with_another_seed():
    asked = [shows(f"q{n}", str(n)) for n in range(20)]
    assert conditions.donors(asked, 0) == conditions.donors(asked, 0) != conditions.donors(asked, 1)
    assert sorted(donors(asked).values()) == sorted(donors(asked))


def test_a_set_s_donors_are_its_own_whatever_is_examined_beside_it():
    one = [shows(f"q{n}", str(n), file="1.csv") for n in range(10)]
    two = [shows(f"r{n}", str(n + 5), file="2.csv") for n in range(10)]
    assert donors([*one, *two]) == donors(one) | donors(two)


@pytest.mark.parametrize(
    "asked",
    [
        [shows("q1", "a")],
        [shows("q1", "a"), shows("q2", "a")],
        [shows("q1", "a", "b"), shows("q2", "a"), shows("q3", "b")],
        [shows("q1", "a"), shows("q2", "b", file="other.csv")],
    ],
)
def test_a_question_that_can_be_shown_no_other_image_is_refused(tmp_path, asked):
    tables.write(tmp_path, Question, asked)
    with pytest.raises(InputError, match=r"q\d, so it can be shown no other ones.*`shuffled`"):
        conditions.prepare(tmp_path, asked, {Condition.SHUFFLED}, seed=0)


def test_a_set_with_a_single_test_image_is_lent_those_of_its_other_questions(tmp_path):
    asked, taught = [shows("q1", "a"), shows("q2", "a")], shows("q3", "b")
    tables.write(tmp_path, Question, [*asked, taught, shows("q4", "c", file="other.csv")])
    showing = conditions.prepare(tmp_path, asked, {Condition.SHUFFLED}, seed=0)
    assert showing.donors == {"q1": taught, "q2": taught}


def test_captions_are_not_even_read_unless_a_condition_shows_them(tmp_path):
    (tmp_path / "captions.parquet").write_text("no table")
    others = set(Condition) - {Condition.CAPTIONED}
    showing = conditions.prepare(tmp_path, [shows("q1", "a"), shows("q2", "b")], others, seed=0)
    assert showing.captions == {}
    assert [showing.caption(question(), condition) for condition in others] == [None] * len(others)


def test_an_image_that_went_bad_after_it_was_sealed_is_named(tmp_path):
    put_images(tmp_path, PICTURES)
    asked = showing_of(question(images=(PATH,)), PICTURES)
    put_other_bytes(tmp_path, PATH, decoding.png(PICTURES[PATH])[:20])
    showing = Showing(folder=tmp_path, donors={}, captions={})
    for condition in (Condition.REAL, Condition.BLANK):
        with pytest.raises(InputError, match=r"a\.png: image_was_changed\. It was readable"):
            showing.image_urls(asked, condition)


@pytest.mark.parametrize("condition", [Condition.REAL, Condition.SHUFFLED, Condition.CAPTIONED])
def test_an_image_is_shown_in_its_sealed_bytes_without_being_decoded_or_encoded(tmp_path, monkeypatch, condition):
    put_images(tmp_path, PICTURES)
    asked = showing_of(question(images=(PATH,)), PICTURES)
    for name in ("png", "decode"):
        monkeypatch.setattr(decoding, name, lambda *_: pytest.fail("the image was touched"))
    showing = Showing(folder=tmp_path, donors={"q1": asked}, captions={"q1": "A caption."})
    assert showing.image_urls(asked, condition) == [data_url(sealed(tmp_path, PATH)[0].read())]


def test_blank_images_of_one_size_and_grey_are_encoded_once(tmp_path, monkeypatch):
    # Of sizes that no other test has: what was encoded is kept for all of them.
    pictures = {f"images/0.zip/{n}.png": Image.new("RGB", (13, 17 + n // 4), (10 + n,) * 3) for n in range(8)}
    pictures |= {f"images/1.zip/{n}.png": picture for n, picture in enumerate(pictures.values())}
    put_images(tmp_path, pictures)
    encoded, png = [], decoding.png
    monkeypatch.setattr(decoding, "png", lambda image: encoded.append(image) or png(image))
    showing = Showing(folder=tmp_path, donors={}, captions={})
    for path, picture in pictures.items():
        asked = showing_of(question(images=(path,)), {})
        asked = dataclasses.replace(asked, image_digests=(digest_bytes(png(picture)),))
        (url,) = showing.image_urls(asked, Condition.BLANK)
        assert url == data_url(png(decoding.blank(picture)))
    assert len(encoded) == 8


def test_without_its_image_a_question_is_shown_none():
    showing = Showing(folder=Path("nowhere"), donors={}, captions={})
    assert showing.image_urls(shows("q1", "a.png"), Condition.ABSENT) == []
