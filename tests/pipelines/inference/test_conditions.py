import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from infra.digests import digest_bytes
from infra.errors import InputError
from pipelines.images import decoding
from pipelines.images.decoding import UnreadableImageError
from pipelines.inference import conditions, requests
from pipelines.inference.backends.chat import data_url, image_url
from pipelines.records import LETTERS, Condition, Question, tables
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
    others = {condition for condition in Condition if not condition.tells_caption}
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


CHANGES = [Condition.BLANK, Condition.BLACK, Condition.PATCH_SHUFFLED, Condition.MIRRORED]
NOISE = Image.effect_noise((37, 22), 90).convert("RGB")


def one_shown(folder, picture, condition):
    put_images(folder, {PATH: picture})
    (image,) = shown(folder, showing_of(question(images=(PATH,)), {PATH: picture}), condition)
    return image


@pytest.mark.parametrize("condition", CHANGES)
def test_a_changed_image_is_another_one_of_the_same_size_and_the_same_every_time(tmp_path, condition):
    image = one_shown(tmp_path, NOISE, condition)
    made = image.decode()
    assert made.tobytes() == image.decode().tobytes() == decoding.decode(image.read()).tobytes() != NOISE.tobytes()
    assert (made.size, made.mode) == (NOISE.size, "RGB")
    assert image.digest == f"{image.original.digest}-{condition}"


def test_a_black_image_is_black_and_a_mirrored_one_is_itself_when_mirrored_again(tmp_path):
    assert one_shown(tmp_path / "1", NOISE, Condition.BLACK).decode().getcolors() == [(37 * 22, (0, 0, 0))]
    mirrored = one_shown(tmp_path / "2", NOISE, Condition.MIRRORED).decode()
    assert mirrored.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes() == NOISE.tobytes()


@given(st.integers(1, 40), st.integers(1, 40), st.text(max_size=4))
def test_patches_are_all_kept_and_none_stays_in_its_place(width, height, seed):
    numbered = Image.frombytes("L", (width, height), bytes(n % 256 for n in range(width * height)))
    made = conditions.patch_shuffled(numbered, seed)
    assert sorted(made.tobytes()) == sorted(numbered.tobytes())
    columns, rows = min(4, width), min(4, height)
    tile = width // columns, height // rows
    corners = [(tile[0] * column, tile[1] * row) for row in range(rows) for column in range(columns)]
    for corner in corners if len(corners) > 1 and width * height <= 256 else ():
        assert made.getpixel(corner) != numbered.getpixel(corner)


def test_another_image_has_its_patches_in_another_order():
    assert conditions.patch_shuffled(NOISE, "a").tobytes() != conditions.patch_shuffled(NOISE, "b").tobytes()


@pytest.mark.parametrize("condition", [c for c in Condition if c.shows_images and c not in CHANGES])
def test_where_the_image_is_not_what_changes_its_sealed_bytes_are_shown(tmp_path, condition):
    image = one_shown(tmp_path, NOISE, condition)
    assert image.read() == sealed(tmp_path, PATH)[0].read()


@pytest.mark.parametrize("condition", [Condition.ABSENT, Condition.CAPTION_ONLY])
def test_conditions_without_images_show_none(tmp_path, condition):
    put_images(tmp_path, PICTURES)
    assert shown(tmp_path, showing_of(question(images=(PATH,)), PICTURES), condition) == ()


@given(st.lists(st.text(min_size=1), min_size=2, max_size=8, unique=True), st.data())
def test_rotated_options_keep_what_is_right(options, data):
    gold = data.draw(st.integers(0, len(options) - 1))
    asked = question(options=tuple(options), gold=LETTERS[gold])
    places = set()
    for rotation in range(len(options)):
        turned = conditions.as_asked(asked, Condition.REAL, rotation)
        place = LETTERS.index(turned.gold)
        places.add(place)
        assert turned.options[place] == options[gold]
        assert sorted(turned.options) == sorted(options)
        back = [turned.options[(number - rotation) % len(options)] for number in range(len(options))]
        assert back == options
    assert places == set(range(len(options)))
    assert conditions.as_asked(asked, Condition.REAL) is asked


def test_where_the_right_option_is_hidden_its_letter_stays_right_and_its_text_is_gone():
    hidden = conditions.as_asked(question(), Condition.GOLD_HIDDEN)
    assert (hidden.options, hidden.gold) == (("mill", "None of the above", "press", "die cast"), "B")
    assert "cast" not in hidden.options


NOTHING_FOUND = conditions.Substitutes(shuffled_from={}, captions={})


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("Which lung is smaller?", ("left", "Right"), "names_a_side"),
        ("Is the leftmost peak the largest?", ("yes", "no"), "names_a_side"),
        ("Does it turn counter-clockwise?", ("yes", "no"), "names_a_side"),
        ("Which is the right answer?", ("steel", "dextrose"), None),
        ("Is the copyright upright, at right angles?", ("yes", "no"), None),
        ("Which phase is this?", ("alpha", "beta"), None),
    ],
)
def test_a_question_that_names_a_side_is_not_asked_about_the_mirrored_image(text, options, reason):
    asked = question(text=text, options=options, gold="A")
    assert conditions.why_not_asked(asked, Condition.MIRRORED, NOTHING_FOUND) == reason
    assert conditions.why_not_asked(asked, Condition.REAL, NOTHING_FOUND) is None


@pytest.mark.parametrize("last", ["None of the above", "Both A and B", "all of these"])
def test_options_that_refer_to_others_are_asked_without_hiding_one(last):
    asked = question(options=("a", "b", last))
    assert conditions.why_not_asked(asked, Condition.GOLD_HIDDEN, NOTHING_FOUND) == "options_refer_to_others"
    assert conditions.why_not_asked(question(), Condition.GOLD_HIDDEN, NOTHING_FOUND) is None


def test_images_shuffled_in_a_task_stay_in_it_and_a_task_with_one_image_lends_none(tmp_path):
    asked = [shows(f"q{n}", str(n), topic=f"t{n % 3}", stratum="s") for n in range(18)]
    alone = shows("alone", "x", topic="other")
    untold = [shows(f"u{n}", f"u{n}", stratum="s") for n in range(2)]
    found = conditions.substitutes(tmp_path, [*asked, alone, *untold], {Condition.SHUFFLED_IN_TASK}, seed=0)
    for each in (*asked, *untold):
        lent = found.in_task[each.id]
        assert lent.id != each.id
        assert (lent.topic, lent.stratum) == (each.topic, each.stratum)
    reasons = [conditions.why_not_asked(each, Condition.SHUFFLED_IN_TASK, found) for each in (alone, *asked)]
    assert reasons == ["no_other_image_in_its_task", *[None] * 18]
