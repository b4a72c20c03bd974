"""A student encodes an image once, and its examples count by their weights."""

import dataclasses
import json
import threading

import pytest
import torch
from PIL import Image

from infra.errors import InputError
from pipelines.images.decoding import png
from pipelines.records import StoredImage, tables
from tests.pipelines.fixtures import put_other_bytes
from tests.train.conftest import PATHS, example, tiny
from train import packing, student
from train.adapter import attach
from train.encoding import encode, read_image
from train.student import Student, VisionEncoder


@pytest.fixture
def adapted(model):
    return attach(model, rank=2, alpha=4, seed=0, base="base")


@pytest.fixture
def encoded(processor, images):
    targets = ["Answer: mill (A)", "Round.\nAnswer: vat (B)", "(A)"]
    return encode([example(n, target) for n, target in enumerate(targets)], images, processor, 500)[0]


def test_the_order_of_an_examples_images_counts(processor, images, adapted):
    rows = [example(0, "Answer: mill (A)", images=order) for order in ((1, 0), (0, 1))]
    the_student = Student(adapted, processor, 1)
    one_way, other_way = (
        the_student.loss(*the_student.read([each]))[0] for each in encode(rows, images, processor, 500)[0]
    )
    assert not torch.allclose(one_way, other_way, rtol=1e-5)


def test_a_weight_of_nothing_takes_an_example_out(adapted, processor, encoded):
    the_student = Student(adapted, processor, 1)

    def of(*weights):
        weighted = [dataclasses.replace(one, weight=w) for one, w in zip(encoded, weights, strict=True)]
        return the_student.loss(*the_student.read(weighted))[0]

    def alone(number):
        return the_student.loss(*the_student.read([encoded[number]]))[0]

    assert torch.allclose(of(1, 0, 1), alone(0) + alone(2), rtol=1e-5)
    assert torch.allclose(of(0.5, 0.5, 0.25), 0.5 * (alone(0) + alone(1)) + 0.25 * alone(2), rtol=1e-5)
    assert of(0, 0, 0) == 0


def test_the_vision_encoder_opens_an_image_once(adapted, processor, encoded, monkeypatch):
    opened = []
    monkeypatch.setattr(student, "read_image", lambda image: opened.append(image) or read_image(image))
    encoder = VisionEncoder(adapted, processor, cache_gib=1)
    paths = [image for one in encoded for image in one.images]
    first, again = _features(encoder, [*paths, paths[0]]), _features(encoder, [*paths, paths[0]])
    assert opened == paths
    _assert_same_features(first, again)


def test_without_a_cache_the_features_are_the_same(adapted, processor, encoded, monkeypatch):
    paths = [image for one in encoded for image in one.images]
    cached, uncached = VisionEncoder(adapted, processor, cache_gib=1), VisionEncoder(adapted, processor, cache_gib=0)
    _assert_same_features(_features(cached, paths), _features(uncached, paths))
    _assert_same_features(_features(cached, paths), _features(uncached, paths))


def test_an_image_that_is_damaged_further_on_is_named(adapted, processor, images, encoded):
    (image,) = encoded[0].images
    put_other_bytes(images, PATHS[0], image.read()[:400])
    with pytest.raises(InputError, match=r"0\.png is not the one that its example was made for"):
        VisionEncoder(adapted, processor, cache_gib=1).prepare([image])


def test_packs_that_are_prefetched_are_the_same(adapted, processor, encoded):
    packs = [encoded[:2], encoded[2:], encoded[:1]]
    plain, ahead = Student(adapted, processor, 1), Student(adapted, processor, 1)
    ahead.prefetch(packs)
    for pack in packs:
        (batch, features), (wanted, wanted_features) = ahead.read(pack), plain.read(pack)
        assert torch.equal(batch.input_ids_1T, wanted.input_ids_1T)
        assert torch.equal(batch.positions_31T, wanted.positions_31T)
        _assert_same_features(features, wanted_features)


def test_reader_threads_have_one_openmp_thread_each_and_the_loop_keeps_its_own(
    adapted, processor, encoded, monkeypatch
):
    made_by = []

    def collate(*arguments):
        made_by.append((torch.get_num_threads(), threading.current_thread() is threading.main_thread()))
        return packing.collate(*arguments)

    monkeypatch.setattr(student, "collate", collate)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        the_student = Student(adapted, processor, 1, num_readers=2)
        expected, unexpected = encoded[:1], encoded[1:]
        the_student.prefetch([expected])
        the_student.read(expected)
        the_student.read(unexpected)
    finally:
        torch.set_num_threads(before)
    assert made_by == [(1, False), (3, True)]


def test_a_damaged_image_of_a_prefetched_pack_is_named_when_its_turn_comes(adapted, processor, images, encoded):
    put_other_bytes(images, PATHS[1], b"no image")
    the_student = Student(adapted, processor, 1)
    packs = [encoded[:1], encoded[1:]]
    the_student.prefetch(packs)
    the_student.read(packs[0])
    with pytest.raises(InputError, match=r"1\.png is not the one that its example was made for"):
        the_student.read(packs[1])


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (16, 16)])
def test_an_image_that_is_not_the_one_that_an_example_was_made_for_ends_the_fit_however_large_it_is(
    adapted, processor, images, encoded, size
):
    put_other_bytes(images, PATHS[0], png(Image.new("L", size)))
    with pytest.raises(InputError, match=r"0\.png is not the one that its example was made for \(image_was_changed"):
        Student(adapted, processor, 1).read(encoded)


@pytest.mark.parametrize("size", [(64, 64), (16, 16)])
def test_a_table_that_says_another_size_than_an_image_has_is_found_out_with_both_numbers(
    adapted, processor, images, size
):
    stored = tables.read(images, StoredImage)
    stored[0] = dataclasses.replace(stored[0], width=size[0], height=size[1])
    tables.write(images, StoredImage, stored)
    encoded, _ = encode([example(0)], images, processor, 500)
    with pytest.raises(InputError, match=r"0\.png has (16|1) visual tokens, and its images give 4: they are not"):
        Student(adapted, processor, 1).read(encoded)


def test_cached_features_on_the_host_and_new_ones_on_the_device_go_together(adapted, processor, encoded, monkeypatch):
    """The device is one that holds nothing, and refuses what is elsewhere as a GPU does."""
    paths = [image for one in encoded for image in one.images]
    encoder = VisionEncoder(adapted, processor, cache_gib=1)
    _features(encoder, paths[:1])
    new = [tuple(each.to("meta") for each in layers) for layers in encoder._encode_new(encoder.prepare(paths))]
    monkeypatch.setattr(encoder, "_encode_new", lambda _: new)
    monkeypatch.setattr(encoder, "_free_bytes", 0)  # nothing can be cached
    monkeypatch.setattr(type(encoder._model), "device", torch.device("meta"))
    features = _features(encoder, paths)
    assert {layer.device.type for layers in _layers(features) for layer in layers} == {"meta"}


def test_a_base_that_lacks_weights_is_named_with_the_first_of_them(model, processor, tmp_path):
    weights = {name: each for name, each in model.state_dict().items() if "layers.1.mlp" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    processor.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"lacks 3 of its weights, such as model\.language_model\.layers\.1\.mlp"):
        student.load(str(tmp_path), "fp32")
    model.save_pretrained(tmp_path)
    assert student.load(str(tmp_path), "fp32")


def test_weights_that_are_cut_off_or_of_another_kind_of_model_are_one_clear_error(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be loaded"):
        student.load(str(tmp_path), "fp32")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "qwen2_5_vl"}))
    with pytest.raises(InputError, match=r"is a qwen2_5_vl, and no Qwen3-VL model\. Set fit\.base"):
        student.load(str(tmp_path), "fp32")


def test_a_student_is_loaded_with_norms_of_one_kernel_and_the_weights_of_its_base(model, processor, tmp_path):
    torch.nn.init.normal_(model.model.language_model.layers[1].self_attn.q_norm.weight)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = student.load(str(tmp_path), "fp32")
    kinds = {type(each).__name__ for each in loaded.model.language_model.modules() if "Norm" in type(each).__name__}
    assert kinds == {"RMSNorm"}
    theirs, own = loaded.state_dict(), model.state_dict()
    assert theirs.keys() == own.keys()
    assert all(torch.equal(theirs[name], own[name]) for name in own)


def test_a_student_is_loaded_with_patches_embedded_by_a_product_to_what_the_convolution_gives(processor, tmp_path):
    stock = tiny(processor, "sdpa")
    stock.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    loaded, _ = student.load(str(tmp_path), "fp32")
    convolution, product = (each.model.visual.patch_embed for each in (stock, loaded))
    assert type(product.proj) is not type(convolution.proj)
    kernel = convolution.proj.weight[0]
    patches_PN = torch.randn(5, kernel.numel())
    torch.testing.assert_close(product(patches_PN), convolution(patches_PN), rtol=1e-5, atol=1e-6)


def _features(encoder, paths):
    return encoder.encode(encoder.prepare(paths))


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} cannot be loaded"):
        student.load(str(tmp_path), "fp32")


def _assert_same_features(one, other):
    assert torch.equal(one.grid_N3, other.grid_N3)
    for a, b in zip(_layers(one), _layers(other), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _layers(features):
    features = features.arguments()["mm_encoder_outputs"]["image"]
    return [features.pooler_output, *features.deepstack_features]
