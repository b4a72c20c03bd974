"""What is trained on is the target and the token that closes it, nothing else, and nothing is cut."""

import pytest
from PIL import Image

from infra.errors import InputError
from tests.train.conftest import config, example
from train.collation import IGNORED, MARKUP, TOO_LONG, collate, encode, plan, render

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
        generation = processor(text=[asked], images=[Image.open(images / example(number).image).convert("RGB")])
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


def test_a_too_long_example_is_left_out_and_counted_never_cut(processor, images):
    rows = [example(0), example(1, "long " * 100), example(2)]
    kept, reasons = encode(rows, images, processor, 150)
    assert reasons == {TOO_LONG: 1}
    assert [one.image.name for one in kept] == ["0.png", "2.png"]
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


def _shares(encoded, num_ranks, **changes):
    settings = config(num_workers=num_ranks, **changes)
    return [list(plan(encoded, settings, rank, num_ranks)) for rank in range(num_ranks)]


def test_the_ranks_together_do_the_batch_of_one_rank(encoded):
    (alone,), together = _shares(encoded, 1), _shares(encoded, 2)
    for whole, *parts in zip(alone, *together, strict=True):
        assert sorted(map(id, _examples(whole))) == sorted(i for part in parts for i in map(id, _examples(part)))
        assert {part.num_targets for part in parts} == {sum(one.num_targets for one in _examples(whole))}
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
