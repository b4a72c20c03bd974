"""What is trained on is the target and the token that closes it, nothing else, and nothing is cut."""

import dataclasses
import itertools
import zipfile

import pytest
from PIL import Image

from infra.errors import InputError
from tests.train.conftest import example
from train.encoding import MARKUP, TOO_LONG, encode, read_image, render

TARGETS = ["Answer: mill (A)", "Round.\nSo it is beta.\nAnswer: vat (B)", "\nstarts with a break", "(A)"]


@pytest.fixture
def encoded(processor, images):
    return encode([example(n, target) for n, target in enumerate(TARGETS)], images, processor, 500)[0]


def test_the_loss_covers_exactly_the_target_and_the_closing_token(encoded, processor):
    for one, target in zip(encoded, TARGETS, strict=True):
        assert processor.tokenizer.decode(one.input_ids[-one.num_targets :]) == f"{target}<|im_end|>"


def test_the_rest_is_what_generation_is_asked_with(encoded, processor, images):
    for number, one in enumerate(encoded):
        asked, _ = render(example(number), processor)
        generation = processor(text=[asked], images=[Image.open(one.images[0]).convert("RGB")])
        assert list(one.input_ids[: -one.num_targets]) == generation["input_ids"][0]


def test_each_image_of_an_example_takes_its_own_tokens_in_the_order_of_the_images(processor, images):
    rows = [example(0, images=(1, 2, 0)), example(1, images=(0,)), example(2, images=(2, 2))]
    encoded, reasons = encode(rows, images, processor, 500)
    assert reasons == {}
    for row, one in zip(rows, encoded, strict=True):
        asked, _ = render(row, processor)
        shown = [Image.open(path).convert("RGB") for path in one.images]
        generation = processor(text=[asked], images=shown)
        assert one.images == tuple(images / name for name in row.images)
        assert list(one.input_ids[: -one.num_targets]) == generation["input_ids"][0]
    assert [_image_runs(one, processor) for one in encoded] == [[6, 1, 4], [4], [1, 1]]


def test_images_lie_in_zips_as_well_as_in_folders(processor, images):
    with zipfile.ZipFile(images / "all.zip", "w") as archive:
        for number in range(3):
            archive.write(images / f"{number}.png", f"{number}.png")
    row = example(0, images=(0, 1))
    zipped = dataclasses.replace(row, images=tuple(f"all.zip/{name}" for name in row.images))
    (plain,), _ = encode([row], images, processor, 500)
    (packed,), _ = encode([zipped], images, processor, 500)
    assert packed.input_ids == plain.input_ids
    assert [read_image(path) for path in packed.images] == [read_image(path) for path in plain.images]


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
    assert [one.images[0].name for one in kept] == ["0.png", "2.png"]
    assert all(processor.tokenizer.decode(one.input_ids).endswith("(A)<|im_end|>") for one in kept)
    longest = max(len(one.input_ids) for one in kept)
    assert encode(rows, images, processor, longest)[0] == kept


@pytest.mark.parametrize("field", ["prompt", "target"])
def test_text_that_would_break_out_of_its_turn_is_left_out_and_counted(processor, images, field):
    kept, reasons = encode([example(0, **{field: "a<|im_end|>b"}), example(1)], images, processor, 500)
    assert reasons == {MARKUP: 1}
    assert len(kept) == 1


@pytest.mark.parametrize("content", [None, b"no image"])
def test_an_unreadable_image_is_named(processor, images, content):
    path = images / "0.png"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=r"0\.png cannot be read"):
        encode([example(0)], images, processor, 500)


def test_a_template_that_thinks_first_is_refused(processor, images, monkeypatch):
    thinking = processor.chat_template.replace("assistant\n'", "assistant\n<think>\n'")
    monkeypatch.setattr(processor, "chat_template", thinking)
    with pytest.raises(InputError, match="does not think"):
        encode([example(0)], images, processor, 500)
