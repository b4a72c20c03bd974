"""An adapter sits on the language model's linears alone, learns, and is a folder that peft loads without us."""

import errno
import re

import pytest
import torch
from peft import PeftModel
from peft.tuners import lora
from safetensors.torch import load_file

from infra.errors import ArtifactError
from tests.train.conftest import example
from train.adapter import attach, num_trainable, save, trainable_names
from train.encoding import encode
from train.layers import InPlaceLoraLinear
from train.student import Student


@pytest.fixture
def adapted(model):
    return attach(model, rank=2, alpha=4, seed=0, base="the/base")


def test_the_language_linears_adapters_learn_and_nothing_else(adapted):
    linears = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    expected = {
        f"base_model.model.model.language_model.layers.{layer}.{linear}.lora_{side}.default.weight"
        for layer in range(2)
        for linear in linears
        for side in "AB"
    }
    assert set(trainable_names(adapted)) == expected
    assert num_trainable(adapted) == sum(p.numel() for name, p in adapted.named_parameters() if name in expected)


def test_an_adapter_s_files_name_the_base_and_its_revision(model):
    fresh = attach(model, rank=2, alpha=4, seed=1, base="some/base", revision="v2")
    stated = fresh.peft_config["default"].to_dict()
    assert (stated["base_model_name_or_path"], stated["revision"]) == ("some/base", "v2")


def test_a_seed_makes_the_same_adapter(model, adapted):
    weights = {name: p.detach().clone() for name, p in adapted.named_parameters() if "lora_A" in name}
    again = attach(adapted.unload(), rank=2, alpha=4, seed=0, base="the/base")
    assert all(torch.equal(weights[name], p) for name, p in again.named_parameters() if name in weights)
    other = attach(again.unload(), rank=2, alpha=4, seed=1, base="the/base")
    assert not any(torch.equal(weights[name], p) for name, p in other.named_parameters() if name in weights)


def test_an_adapted_linear_gives_what_peft_s_own_gives_with_all_its_gradients(adapted):
    linear = adapted.get_submodule(trainable_names(adapted)[0].removesuffix(".lora_A.default.weight"))
    torch.nn.init.normal_(linear.lora_B.default.weight)
    x = torch.randn(2, 5, linear.in_features, requires_grad=True)
    parameters = [x, linear.lora_A.default.weight, linear.lora_B.default.weight]
    results = [forward(x) for forward in (linear, lambda x: lora.Linear.forward(linear, x))]
    assert type(linear) is InPlaceLoraLinear
    torch.testing.assert_close(*results)
    output_grad = torch.randn_like(results[0])
    for own, peft_s in zip(*(torch.autograd.grad(each, parameters, output_grad) for each in results), strict=True):
        torch.testing.assert_close(own, peft_s, rtol=1e-4, atol=1e-5)
    with adapted.disable_adapter():
        torch.testing.assert_close(linear(x), linear.base_layer(x))


def test_the_folder_is_plain_and_peft_loads_it(adapted, model, processor, images, tmp_path):
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    loss = _loss(adapted, processor, images)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save(adapted, folder)
    assert sorted(f.name for f in folder.iterdir()) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    # vLLM activates keys of this shape, and ignores others without a word.
    key = re.compile(
        r"base_model\.model\.model\.language_model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.lora_[AB]\.weight"
    )
    assert all(key.fullmatch(name) for name in load_file(folder / "adapter_model.safetensors"))
    loaded = PeftModel.from_pretrained(adapted.unload(), folder)
    assert loaded.peft_config["default"].base_model_name_or_path == "the/base"
    assert torch.equal(_loss(loaded, processor, images), loss)


def test_a_full_disk_is_one_clear_error(adapted, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(adapted, "save_pretrained", full)
    with pytest.raises(ArtifactError, match=r"No space left on device.*Free space"):
        save(adapted, tmp_path)


def _loss(adapted, processor, images):
    encoded, _ = encode([example(0), example(1)], images, processor, 500)
    student = Student(adapted.eval(), processor, 1)
    with torch.no_grad():
        return student.loss(*student.read(encoded))[0]
