"""A packed example has the loss that it has alone, the ranks together do the whole batch, and nothing is padded."""

import dataclasses
from array import array
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.images.sealed import SealedImage
from tests.train.conftest import config, example, tiny
from train import attention
from train.adapter import attach
from train.encoding import Encoded, encode, render
from train.packing import plan, shard_batch
from train.student import Student

TARGETS = ["Answer: mill (A)", "Round and smooth and long.\nAnswer: vat (B)", "(A)", "B", "No.", "Yes, it is."]
IMAGES = [(0,), (1, 2, 0), (2,), (1, 1), (0, 2), (1,)]


@pytest.fixture
def rows():
    return [example(n, target, images=shown) for n, (target, shown) in enumerate(zip(TARGETS, IMAGES, strict=True))]


@pytest.fixture
def encoded(processor, images, rows):
    return encode(rows, images, processor, 500)[0]


def adapted(model):
    """With an adapter that changes what the model says."""
    adapted = attach(model, rank=2, alpha=4, seed=0, base="base")
    torch.manual_seed(5)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapted


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def test_a_pack_has_the_loss_and_the_gradients_that_the_model_itself_has_for_its_examples_alone(
    processor, images, model, rows, encoded
):
    # In double precision, so that sums may be in another order.
    plain = adapted(tiny(processor, "sdpa")).double()
    expected = 0.0
    for row, one in zip(rows, encoded, strict=True):
        text = "".join(render(row, processor))
        shown = [image.decode() for image in one.images]
        inputs = processor(text=[text], images=[shown], return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == list(one.input_ids)
        labels = inputs["input_ids"].clone()
        labels[:, : -one.num_targets] = -100
        loss = plain(**inputs, labels=labels).loss * one.num_targets
        loss.backward()
        expected += float(loss.detach())
    student = Student(adapted(model).double(), processor, 1)
    loss, sums_2 = student.loss(*student.read(encoded))
    loss.backward()
    assert sums_2.tolist() == [float(loss.detach()), 0]
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    wanted = gradients(plain)
    assert any(gradient.any() for gradient in wanted.values())
    for name, gradient in gradients(student.model).items():
        assert torch.allclose(gradient, wanted[name], rtol=1e-3, atol=1e-6), name


def test_gradient_checkpointing_changes_no_gradient(processor, model, encoded):
    from train.student import enable_gradient_checkpointing

    student = Student(adapted(model), processor, 1)
    student.loss(*student.read(encoded))[0].backward()
    before = gradients(student.model)
    student.model.zero_grad()
    enable_gradient_checkpointing(student.model)
    student.loss(*student.read(encoded))[0].backward()
    assert student.model.get_base_model().model.language_model.layers[0].gradient_checkpointing
    for name, gradient in gradients(student.model).items():
        assert torch.allclose(gradient, before[name], rtol=1e-5, atol=1e-8), name


def test_no_example_sees_another_one(processor, model, encoded):
    student = Student(adapted(model), processor, 1)

    def losses_of_the_last(*others):
        batch, features = student.read([*others, encoded[1]])
        losses_S, *_ = student.loss.token_metrics(batch, features)
        return losses_S[-encoded[1].num_targets :]

    alone = losses_of_the_last()
    assert torch.allclose(losses_of_the_last(encoded[0]), alone, rtol=1e-5)
    assert torch.allclose(losses_of_the_last(encoded[3], encoded[5], encoded[2]), alone, rtol=1e-5)


def test_an_example_stands_where_the_model_would_place_it_alone(processor, model, encoded):
    student = Student(adapted(model), processor, 1)
    batch, _ = student.read(encoded)
    ends = list(accumulate(batch.lengths))
    for one, start, end in zip(encoded, [0, *ends], ends, strict=False):
        assert batch.input_ids_1T[0, start:end].tolist() == list(one.input_ids)
        assert (batch.positions_31T[:, 0, start] == 0).all()
        alone, _ = student.read([one])
        assert torch.equal(batch.positions_31T[..., start:end], alone.positions_31T)
        is_image = batch.input_ids_1T[0, start:end] == processor.image_token_id
        rotary = batch.positions_31T[:, 0, start:end]
        # Height and width go apart at images alone, which is what makes these positions those of the model.
        assert (rotary[1] != rotary[2]).any() == any(shown.path.stem != "2" for shown in one.images)
        assert (rotary[0] == rotary[1])[~is_image].all()


def test_each_supervised_token_is_predicted_by_the_one_before_it(processor, model, encoded):
    weighted = [dataclasses.replace(one, weight=number / 4) for number, one in enumerate(encoded)]
    batch, _ = Student(adapted(model), processor, 1).read(weighted)
    tokens_T = batch.input_ids_1T[0]
    assert torch.equal(tokens_T[batch.predicting_S + 1], batch.targets.ids_S)
    assert processor.tokenizer.decode(batch.targets.ids_S) == "".join(f"{target}<|im_end|>" for target in TARGETS)
    assert batch.targets.weights_S.tolist() == [one.weight for one in weighted for _ in range(one.num_targets)]


def test_questions_without_an_image_are_packed_too(processor, model, encoded):
    text = Encoded((), encoded[0].input_ids[-12:], 4)
    student = Student(adapted(model), processor, 1)
    both, _ = student.loss(*student.read([text, encoded[1]]))
    apart = student.loss(*student.read([text]))[0] + student.loss(*student.read([encoded[1]]))[0]
    assert torch.allclose(both, apart, rtol=1e-5)


def _shards(encoded, num_ranks, **changes):
    settings = config(num_workers=num_ranks, **changes)
    return [list(plan(encoded, settings, rank, num_ranks)) for rank in range(num_ranks)]


def _examples(shard):
    return [one for pack in shard.packs for one in pack]


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_the_ranks_together_do_the_batch_of_one_rank(encoded, num_ranks):
    (alone,), together = _shards(encoded, 1), _shards(encoded, num_ranks)
    for whole, *parts in zip(alone, *together, strict=True):
        done = [one for part in parts for one in _examples(part) if one.weight]
        assert sorted(map(id, _examples(whole))) == sorted(map(id, done))
        assert {part.num_targets for part in parts} == {sum(one.num_targets for one in _examples(whole))}
        assert {part.total_weight for part in parts} == {whole.num_targets}
        lengths = sorted(len(one.input_ids) for one in _examples(whole))
        assert [sorted(part.lengths) for part in parts] == [lengths] * num_ranks


def test_every_example_comes_once_an_epoch_in_an_order_that_the_seed_decides(encoded):
    (shards,) = _shards(encoded, 1, batch_size=3, num_steps=20)
    for epoch in zip(shards[::2], shards[1::2], strict=True):
        assert {id(one) for shard in epoch for one in _examples(shard)} == set(map(id, encoded))
    assert _shards(encoded, 1, num_steps=20) == _shards(encoded, 1, num_steps=20)
    assert _shards(encoded, 1, batch_size=3, num_steps=20) != _shards(encoded, 1, batch_size=3, num_steps=20, seed=1)


def test_a_plan_goes_on_where_it_was(encoded):
    settings = config(num_steps=9)
    whole = list(plan(encoded, settings, 0, 2))
    for done in (0, 1, 5, 9):
        assert list(plan(encoded, settings, 0, 2, done=done)) == whole[done:]


@given(
    lengths=st.lists(st.integers(2, 100), min_size=1, max_size=40),
    num_ranks=st.integers(1, 5),
    tokens_per_pack=st.integers(100, 400),
)
def test_packs_hold_the_batch_once_within_their_limit_and_every_rank_has_equally_many(
    lengths, num_ranks, tokens_per_pack
):
    batch = [Encoded((SealedImage(Path(str(n)), ""),), array("i", [7] * length), 1) for n, length in enumerate(lengths)]
    by_rank = shard_batch(batch, num_ranks, tokens_per_pack)
    assert len(by_rank) == num_ranks
    assert len({len(packs) for packs in by_rank}) == 1
    packs = [pack for packs in by_rank for pack in packs]
    assert all(pack for pack in packs)
    assert all(sum(len(one.input_ids) for one in pack) <= tokens_per_pack for pack in packs)
    counted = [one for pack in packs for one in pack if one.weight]
    assert sorted(map(id, counted)) == sorted(map(id, batch))


def test_an_example_that_fits_no_pack_is_an_error():
    with pytest.raises(ValueError, match="an example of 11 tokens fits no pack of 10"):
        shard_batch([Encoded((), array("i", [7] * 11), 1)], 1, 10)


def test_the_kernel_for_gpus_takes_what_it_is_given_forward_and_backward_with_fewer_keys_than_queries():
    query, key, value = (
        torch.empty(1, heads, 50, 64, dtype=torch.bfloat16, device="meta", requires_grad=True) for heads in (8, 2, 2)
    )
    output_1THD = attention._by_flash(query, key, value, (20, 30), 0.125)
    assert output_1THD.shape == (1, 50, 8, 64)
    output_1THD.sum().backward()
    assert [each.grad.shape for each in (query, key, value)] == [each.shape for each in (query, key, value)]


def test_where_examples_begin_is_copied_to_the_device_once_for_all_layers():
    lengths, device = (20, 30), torch.device("cpu")
    offsets = attention.cumulative_lengths(lengths, device)
    assert offsets.tolist() == [0, 20, 50]
    assert attention.cumulative_lengths(lengths, device) is offsets
