"""The loss is that of the model itself, at the supervised tokens alone, with an eye that looks at an image once."""

import dataclasses

import pytest
import torch
from PIL import Image

from infra.errors import InputError
from tests.train.conftest import example
from train import student
from train.adapter import attach
from train.collation import IGNORED, collate, encode, render
from train.student import Eye, TargetLoss


@pytest.fixture
def adapted(model):
    return attach(model, rank=2, alpha=4, seed=0, base="base")


@pytest.fixture
def encoded(processor, images):
    targets = ["Answer: mill (A)", "Round.\nAnswer: vat (B)", "(A)"]
    return encode([example(n, target) for n, target in enumerate(targets)], images, processor, 500)[0]


def test_the_loss_is_the_models_own_over_the_supervised_tokens(adapted, processor, encoded):
    batch = collate(encoded, processor)
    images = [Image.open(one.images[0]).convert("RGB") for one in encoded]
    pixels = processor.image_processor(images, return_tensors="pt")
    expected = adapted(**batch, **pixels).loss * (batch["labels"] != IGNORED).sum()
    eye = Eye(adapted, processor, cache_gib=1)
    loss = TargetLoss(adapted)(batch, eye.look([image for one in encoded for image in one.images]))
    assert torch.allclose(loss, expected, rtol=1e-5)


def test_the_loss_with_several_images_is_the_models_own_and_their_order_counts(adapted, processor, images):
    rows = [example(0, "Answer: mill (A)", images=(1, 0)), example(1, "(A)"), example(2, "Round.", images=(2, 1, 1))]
    encoded, _ = encode(rows, images, processor, 500)
    texts = [f"{asked}{answered}" for asked, answered in (render(row, processor) for row in rows)]
    shown = [[Image.open(path).convert("RGB") for path in one.images] for one in encoded]
    plain = processor(text=texts, images=shown, padding=True, padding_side="right", return_tensors="pt")
    batch, look = collate(encoded, processor), Eye(adapted, processor, cache_gib=1).look
    assert torch.equal(batch["input_ids"], plain["input_ids"])
    sight = look([image for one in encoded for image in one.images])
    assert torch.equal(sight["image_grid_thw"], plain["image_grid_thw"])
    expected = adapted(**plain, labels=batch["labels"]).loss * (batch["labels"] != IGNORED).sum()
    loss = TargetLoss(adapted)
    assert torch.allclose(loss(batch, sight), expected, rtol=1e-5)

    swapped, _ = encode([dataclasses.replace(rows[0], images=rows[0].images[::-1])], images, processor, 500)
    one_way, other_way = (loss(collate([e], processor), look(e.images)) for e in (encoded[0], swapped[0]))
    assert not torch.allclose(one_way, other_way, rtol=1e-5)


def test_weights_of_one_change_no_bit_and_a_weight_of_nothing_takes_an_example_out(adapted, processor, encoded):
    eye, loss = Eye(adapted, processor, cache_gib=1), TargetLoss(adapted)

    def of(*weights):
        weighted = [dataclasses.replace(one, weight=w) for one, w in zip(encoded, weights, strict=True)]
        return loss(collate(weighted, processor), eye.look([image for one in encoded for image in one.images]))

    def alone(number):
        return loss(collate([encoded[number]], processor), eye.look(encoded[number].images))

    batch = collate(encoded, processor)
    assert torch.equal(of(1, 1, 1), loss(batch, eye.look([image for one in encoded for image in one.images])))
    assert torch.allclose(of(1, 0, 1), alone(0) + alone(2), rtol=1e-5)
    assert torch.allclose(of(0.5, 0.5, 0.25), 0.5 * (alone(0) + alone(1)) + 0.25 * alone(2), rtol=1e-5)
    assert of(0, 0, 0) == 0


def test_the_eye_opens_an_image_once(adapted, processor, encoded, monkeypatch):
    opened = []
    monkeypatch.setattr(student, "read_image", lambda path: opened.append(path) or Image.open(path).convert("RGB"))
    eye = Eye(adapted, processor, cache_gib=1)
    paths = [image for one in encoded for image in one.images]
    first, again = eye.look([*paths, paths[0]]), eye.look([*paths, paths[0]])
    assert opened == paths
    _assert_same_sight(first, again)


def test_an_eye_without_memory_sees_the_same(adapted, processor, encoded, monkeypatch):
    paths = [image for one in encoded for image in one.images]
    keeping, forgetting = Eye(adapted, processor, cache_gib=1), Eye(adapted, processor, cache_gib=0)
    _assert_same_sight(keeping.look(paths), forgetting.look(paths))
    _assert_same_sight(keeping.look(paths), forgetting.look(paths))


def test_an_image_that_is_damaged_further_on_is_named(adapted, processor, images):
    path = images / "0.png"
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match=r"0\.png cannot be read"):
        Eye(adapted, processor, cache_gib=1).look([path])


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} cannot be loaded"):
        student.load(str(tmp_path), "fp32")


def _assert_same_sight(one, other):
    assert one["image_grid_thw"].tolist() == other["image_grid_thw"].tolist()
    for a, b in zip(_layers(one), _layers(other), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _layers(sight):
    features = sight["mm_encoder_outputs"]["image"]
    return [features.pooler_output, *features.deepstack_features]
