import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.images import decoding
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import conditions, requests
from pipelines.inference.backends.chat import data_url, image_url
from pipelines.records import Condition, Question, tables
from tests.pipelines.fixtures import put_images, put_other_bytes, question, sealed
from tests.pipelines.fixtures import showing as showing_of
from tests.pipelines.teaching.fixtures import config as settings
from tests.pipelines.teaching.fixtures import own as inference

PATH = "images/0.zip/a.png"
PICTURES = {PATH: Image.new("RGB", (4, 4), "red")}


def shows(name, *digests, **changes):
    return question(id=name, images=digests, image_digests=digests, **changes)


def shuffled(asked):
    return {name: other.id for name, other in conditions.shuffled_from(asked, seed=0).items()}


def test_a_donor_has_no_image_in_common_and_every_question_has_one():
    asked = [shows(f"q{n}", str(n // 4), f"extra {n % 7}") for n in range(56)]
    digests = {q.id: set(q.image_digests) for q in asked}
    found = shuffled(asked)
    assert set(found) == set(digests)
    assert all(digests[name].isdisjoint(digests[donor]) for name, donor in found.items())


def test_donors_are_the_same_in_every_run_and_other_ones_with_another_seed():
    asked = [shows(f"q{n}", str(n)) for n in range(20)]
    assert (
        conditions.shuffled_from(asked, 0) == conditions.shuffled_from(asked, 0) != conditions.shuffled_from(asked, 1)
    )
    assert sorted(shuffled(asked).values()) == sorted(shuffled(asked))


def test_a_set_s_donors_are_its_own_whatever_is_examined_beside_it():
    one = [shows(f"q{n}", str(n), file="1.csv") for n in range(10)]
    two = [shows(f"r{n}", str(n + 5), file="2.csv") for n in range(10)]
    assert shuffled([*one, *two]) == shuffled(one) | shuffled(two)


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
        conditions.substitutes(tmp_path, asked, {Condition.SHUFFLED}, seed=0)


def test_a_set_with_a_single_test_image_is_lent_those_of_its_other_questions(tmp_path):
    asked, taught = [shows("q1", "a"), shows("q2", "a")], shows("q3", "b")
    tables.write(tmp_path, Question, [*asked, taught, shows("q4", "c", file="other.csv")])
    found = conditions.substitutes(tmp_path, asked, {Condition.SHUFFLED}, seed=0)
    assert found.shuffled_from == {"q1": taught, "q2": taught}


def test_captions_are_not_even_read_unless_a_condition_shows_them(tmp_path):
    (tmp_path / "captions.parquet").write_text("no table")
    others = set(Condition) - {Condition.CAPTIONED}
    found = conditions.substitutes(tmp_path, [shows("q1", "a"), shows("q2", "b")], others, seed=0)
    assert found.captions == {}


def shown(folder, asked, condition):
    """The images that go with a question under a condition."""
    config = inference(settings())
    return conditions.shown_images(folder, requests.request(config, asked, "What?", condition))


@pytest.mark.parametrize("condition", [Condition.REAL, Condition.BLANK])
def test_an_image_that_went_bad_after_it_was_sealed_is_no_image(tmp_path, condition):
    put_images(tmp_path, PICTURES)
    asked = showing_of(question(images=(PATH,)), PICTURES)
    put_other_bytes(tmp_path, PATH, decoding.png(PICTURES[PATH])[:20])
    (image,) = shown(tmp_path, asked, condition)
    with pytest.raises(UnreadableImageError, match="image_was_changed"):
        image.read()


@pytest.mark.parametrize("condition", [Condition.REAL, Condition.SHUFFLED, Condition.CAPTIONED])
def test_an_image_is_shown_in_its_sealed_bytes_without_being_decoded_or_encoded(tmp_path, monkeypatch, condition):
    put_images(tmp_path, PICTURES)
    asked = showing_of(question(images=(PATH,)), PICTURES)
    for name in ("png", "decode"):
        monkeypatch.setattr(decoding, name, lambda *_: pytest.fail("the image was touched"))
    (image,) = shown(tmp_path, asked, condition)
    assert image_url(image) == data_url(sealed(tmp_path, PATH)[0].read())


def test_blank_images_of_one_size_and_grey_are_encoded_once(tmp_path, monkeypatch):
    # Of sizes that no other test has: what was encoded is kept for all of them.
    pictures = {f"images/0.zip/{n}.png": Image.new("RGB", (13, 17 + n // 4), (10 + n,) * 3) for n in range(8)}
    pictures |= {f"images/1.zip/{n}.png": picture for n, picture in enumerate(pictures.values())}
    put_images(tmp_path, pictures)
    encoded, png = [], decoding.png
    monkeypatch.setattr(decoding, "png", lambda image: encoded.append(image) or png(image))
    for path, picture in pictures.items():
        asked = showing_of(question(images=(path,)), {})
        asked = dataclasses.replace(asked, image_digests=(digest_bytes(png(picture)),))
        (image,) = shown(tmp_path, asked, Condition.BLANK)
        assert image_url(image) == data_url(png(decoding.blank(picture)))
        assert image.decode().tobytes() == decoding.blank(picture).tobytes()
    assert len(encoded) == 8


def test_a_blank_image_is_another_one_than_its_original(tmp_path):
    asked = shows("q1", "images/0.zip/a.png")
    (real,), (blank,) = shown(tmp_path, asked, Condition.REAL), shown(tmp_path, asked, Condition.BLANK)
    assert blank.digest != real.digest


def test_without_its_image_a_question_is_shown_none():
    assert shown(Path("nowhere"), shows("q1", "a.png"), Condition.ABSENT) == ()
