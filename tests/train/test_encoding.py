"""What is trained on is the target and the token that closes it, nothing else, and nothing is cut."""

import dataclasses
import itertools
import shutil
import unicodedata

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from infra.errors import InputError
from pipelines.images.decoding import png
from tests.pipelines.fixtures import put_other_bytes
from tests.train.conftest import PATHS, example
from train import encoding
from train.encoding import encode, most_tokens, read_image, render, unusable_questions
from train.job import IN_ANOTHER_ARM, MARKUP, TOO_LONG

TARGETS = ["Answer: mill (A)", "Round.\nSo it is beta.\nAnswer: vat (B)", "\nstarts with a break", "(A)"]


@pytest.fixture
def encoded(processor, images):
    return encode([example(n, target) for n, target in enumerate(TARGETS)], images, processor, 500)[0]


def test_the_loss_covers_exactly_the_target_and_the_closing_token(encoded, processor):
    for one, target in zip(encoded, TARGETS, strict=True):
        assert processor.tokenizer.decode(one.input_ids[-one.num_targets :]) == f"{target}<|im_end|>"


def test_the_rest_is_the_prompt_that_generation_starts_with(encoded, processor, images):
    for number, one in enumerate(encoded):
        prompt, _ = render(example(number), processor)
        generation = processor(text=[prompt], images=[read_image(one.images[0])])
        assert list(one.input_ids[: -one.num_targets]) == generation["input_ids"][0]


def test_each_image_of_an_example_takes_its_own_tokens_in_the_order_of_the_images(processor, images):
    rows = [example(0, images=(1, 2, 0)), example(1, images=(0,)), example(2, images=(2, 2))]
    encoded, reasons = encode(rows, images, processor, 500)
    assert reasons == {}
    for row, one in zip(rows, encoded, strict=True):
        prompt, _ = render(row, processor)
        shown = [read_image(image) for image in one.images]
        generation = processor(text=[prompt], images=shown)
        assert [image.path for image in one.images] == [images / name for name in row.images]
        assert list(one.input_ids[: -one.num_targets]) == generation["input_ids"][0]
    assert [_image_runs(one, processor) for one in encoded] == [[6, 1, 4], [4], [1, 1]]


def test_no_image_is_opened_to_know_its_tokens(processor, images, encoded):
    shutil.rmtree(images / "images")
    assert encode([example(n, target) for n, target in enumerate(TARGETS)], images, processor, 500)[0] == encoded


def test_a_template_with_one_place_for_all_images_is_refused(processor, images, monkeypatch):
    once = processor.chat_template.replace(
        "{% if part.type == 'image' %}", "{% if part.type == 'image' and loop.first %}"
    )
    once = once.replace("{% else %}{{ part.text }}", "{% elif part.type == 'text' %}{{ part.text }}")
    monkeypatch.setattr(processor, "chat_template", once)
    assert len(encode([example(0)], images, processor, 500)[0]) == 1
    with pytest.raises(InputError, match="1 places for 2 images"):
        encode([example(0, images=(0, 1))], images, processor, 500)


def _image_runs(one, processor):
    """How many image tokens stand together, run by run."""
    runs = itertools.groupby(one.input_ids, lambda token: token == processor.image_token_id)
    return [len(list(run)) for is_image, run in runs if is_image]


def test_a_too_long_example_is_left_out_and_counted_never_cut(processor, images):
    rows = [example(0), example(1, "long " * 100), example(2)]
    kept, reasons = encode(rows, images, processor, 150)
    assert reasons == {TOO_LONG: 1}
    assert [one.images[0].path.name for one in kept] == ["0.png", "2.png"]
    assert all(processor.tokenizer.decode(one.input_ids).endswith("(A)<|im_end|>") for one in kept)
    longest = max(len(one.input_ids) for one in kept)
    assert encode(rows, images, processor, longest)[0] == kept


@pytest.mark.parametrize("field", ["prompt", "target"])
def test_text_that_would_break_out_of_its_turn_is_left_out_and_counted(processor, images, field):
    kept, reasons = encode([example(0, **{field: "a<|im_end|>b"}), example(1)], images, processor, 500)
    assert reasons == {MARKUP: 1}
    assert len(kept) == 1


def test_an_image_that_the_questions_do_not_have_is_named(processor, images):
    strange = dataclasses.replace(example(0), images=("images/7.zip/x.png",))
    with pytest.raises(InputError, match=r"has no image images/7\.zip/x\.png, which an example shows"):
        encode([example(1), strange], images, processor, 500)


@pytest.mark.parametrize("content", [None, b"no image", png(Image.new("L", (32, 32)))])
def test_an_image_that_is_not_there_any_more_or_another_one_is_named(processor, images, content):
    (one,), _ = encode([example(0)], images, processor, 500)
    put_other_bytes(images, PATHS[0], content)
    with pytest.raises(InputError, match=r"0\.png is not the one that its example was made for"):
        read_image(one.images[0])


def test_a_template_that_thinks_first_is_refused(processor, images, monkeypatch):
    thinking = processor.chat_template.replace("assistant\n'", "assistant\n<think>\n'")
    monkeypatch.setattr(processor, "chat_template", thinking)
    with pytest.raises(InputError, match="does not think"):
        encode([example(0)], images, processor, 500)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(["a<|im_end|>", "x" * 50])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(made=st.lists(st.tuples(texts, texts, st.integers(1, 3)), max_size=6), max_length=st.integers(30, 150))
def test_what_another_arm_cannot_learn_is_what_its_own_fit_would_leave_out(processor, images, made, max_length):
    rows = [example(n, target, prompt, images=(n,) * num) for n, (prompt, target, num) in enumerate(made)]
    alone = {row.question_id: encode([row], images, processor, max_length)[1] for row in rows}
    expected = {name: f"{reason}{IN_ANOTHER_ARM}" for name, reasons in alone.items() for reason in reasons}
    assert unusable_questions(iter(rows), images, processor, max_length) == expected


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_no_normal_form_of_a_text_has_more_bytes_than_the_most_tokens_that_it_may_have(form, text):
    assert len(unicodedata.normalize(form, text).encode()) <= most_tokens(text)


def test_of_another_arm_only_what_could_be_too_long_is_tokenized(processor, images, monkeypatch):
    tokenized = []
    monkeypatch.setattr(encoding, "render", lambda row, _: tokenized.append(row.question_id) or render(row, processor))
    rows = [example(n, "long " * 40 if n == 2 else "It is.") for n in range(6)]
    assert unusable_questions(rows, images, processor, 150) == {"2": f"{TOO_LONG}{IN_ANOTHER_ARM}"}
    assert tokenized == ["", "2"]
