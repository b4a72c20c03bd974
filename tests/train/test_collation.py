"""What is trained on is the target and the token that closes it, nothing else, and nothing is cut."""

import dataclasses
import itertools
import zipfile

import pytest
from PIL import Image

from infra.errors import InputError
from tests.train.conftest import config, example
from train.collation import IGNORED, MARKUP, TOO_LONG, collate, encode, plan, read_image, render

TARGETS = ["Answer: mill (A)", "Round.\nSo it is beta.\nAnswer: vat (B)", "\nstarts with a break", "(A)"]


@pytest.fixture
def encoded(processor, images):
    return encode([example(n, target) for n, target in enumerate(TARGETS)], images, processor, 500)[0]


def test_the_loss_covers_exactly_the_target_and_the_closing_token(encoded, processor):
    labels = collate(encoded, processor)["labels"]
    for row, target in zip(labels, TARGETS, strict=True):
        supervised = row != IGNORED
        assert processor.tokenizer.decode(row[supervised]) == f"{target}<|im_end|>"
        first, last = supervised.nonzero().flatten()[[0, -1]]
        assert supervised[first : last + 1].all()


def test_the_rest_is_what_generation_is_asked_with(encoded, processor, images):
    for number, one in enumerate(encoded):
        asked, _ = render(example(number), processor)
        generation = processor(text=[asked], images=[Image.open(one.images[0]).convert("RGB")])
        assert one.input_ids[: -one.num_targets] == generation["input_ids"][0]


def test_batches_are_padded_on_the_right(encoded, processor):
    batch = collate(encoded, processor)
    for row, one in enumerate(encoded):
        length = len(one.input_ids)
        assert batch["input_ids"][row, :length].tolist() == one.input_ids
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        assert (batch["labels"][row, length:] == IGNORED).all()


def test_batches_say_where_the_image_tokens_are(encoded, processor):
    batch = collate(encoded, processor)
    is_image = batch["input_ids"] == processor.image_token_id
    assert (batch["mm_token_type_ids"] == is_image).all()
    assert is_image.sum(dim=1).tolist() == [4, 6, 1, 4]


def test_each_image_of_an_example_takes_its_own_tokens_in_the_order_of_the_images(processor, images):
    rows = [example(0, images=(1, 2, 0)), example(1, images=(0,)), example(2, images=(2, 2))]
    encoded, reasons = encode(rows, images, processor, 500)
    assert reasons == {}
    for row, one in zip(rows, encoded, strict=True):
        asked, _ = render(row, processor)
        shown = [Image.open(path).convert("RGB") for path in one.images]
        generation = processor(text=[asked], images=shown)
        assert one.images == tuple(images / name for name in row.images)
        assert one.input_ids[: -one.num_targets] == generation["input_ids"][0]
    assert _image_runs(encoded[0], processor) == [6, 1, 4]
    batch = collate(encoded, processor)
    is_image = batch["input_ids"] == processor.image_token_id
    assert (batch["mm_token_type_ids"] == is_image).all()
    assert is_image.sum(dim=1).tolist() == [11, 4, 2]


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


def test_weights_go_with_their_examples_and_only_where_they_differ_from_one(processor, images):
    rows = [example(n, weight=weight) for n, weight in enumerate([1, 0.5, 0, 1])]
    encoded, _ = encode(rows, images, processor, 500)
    assert collate(encoded, processor)["weights"].tolist() == [1, 0.5, 0, 1]
    assert "weights" not in collate([encoded[0], encoded[3]], processor)
    (share,) = next(zip(*_shares(encoded, 1), strict=True))
    assert share.total_weight == 2.5 * encoded[0].num_targets


def _shares(encoded, num_ranks, **changes):
    settings = config(num_workers=num_ranks, **changes)
    return [list(plan(encoded, settings, rank, num_ranks)) for rank in range(num_ranks)]


def test_the_ranks_together_do_the_batch_of_one_rank(encoded):
    (alone,), together = _shares(encoded, 1), _shares(encoded, 2)
    for whole, *parts in zip(alone, *together, strict=True):
        assert sorted(map(id, _examples(whole))) == sorted(i for part in parts for i in map(id, _examples(part)))
        assert {part.num_targets for part in parts} == {sum(one.num_targets for one in _examples(whole))}
        assert {part.total_weight for part in parts} == {whole.num_targets}
        assert {part.num_tokens for part in parts} == {sum(len(one.input_ids) for one in _examples(whole))}
        assert all(len(micro_batch) == 2 for part in [whole, *parts] for micro_batch in part.micro_batches)


def test_every_example_comes_once_an_epoch_in_an_order_that_the_seed_decides(encoded):
    (shares,) = _shares(encoded, 1, batch_size=2, num_steps=20)
    for epoch in zip(shares[::2], shares[1::2], strict=True):
        assert {id(one) for share in epoch for one in _examples(share)} == set(map(id, encoded))
    assert _shares(encoded, 1, num_steps=20) == _shares(encoded, 1, num_steps=20)
    assert _shares(encoded, 1, batch_size=2, num_steps=20) != _shares(encoded, 1, batch_size=2, num_steps=20, seed=1)


def _examples(share):
    return [one for micro_batch in share.micro_batches for one in micro_batch]
