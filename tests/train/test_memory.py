"""What a fit will need is known before a GPU is asked for, and what cannot fit is refused."""

import dataclasses
import re

import pytest
import torch

from infra.errors import ConfigError, InputError
from infra.recipes import resolve
from tests.train.conftest import config
from train import memory, recipes
from train.adapter import attach, num_trainable

SMALL, LARGE = "qwen3_vl_2b_1x32gb", "qwen3_vl_4b_1x32gb"
RECIPES = (SMALL, "qwen3_vl_2b_1x80gb", "qwen3_vl_2b_8x80gb", LARGE, "qwen3_vl_4b_1x80gb", "qwen3_vl_4b_8x80gb")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_for_gpus_fits_into_the_gpus_that_it_names(name):
    settings = getattr(recipes, name)().fit
    shown = settings.estimate(None)
    assert 0 < shown["gib_per_worker"]["all"] <= settings.gpu_memory_gib
    assert shown["steps"] == settings.num_steps


@pytest.mark.parametrize("name", [SMALL, "pocket"])
def test_the_parts_of_a_worker_s_memory_add_up_to_all_of_it_as_they_are_shown(name):
    settings = getattr(recipes, name)().fit
    parts = dict(settings.estimate(None)["gib_per_worker"])
    assert parts.pop("all") == pytest.approx(sum(parts.values()), abs=1e-9)
    assert sum(parts.values()) == pytest.approx(memory.estimate_need(settings).gib, abs=0.03)
    assert ("overhead", parts["overhead"]) == ("overhead", 1.5 if settings.gpus_per_worker else 0)
    line = memory.describe(memory.estimate_need(settings), settings)
    shown = [float(number) for number in re.findall(r" (\d[\d.]*)(?= \+|$)", line.partition(": ")[2])]
    assert sum(shown) == pytest.approx(float(re.search(r"needs ([\d.]+) GiB", line).group(1)), abs=1e-9)


def test_the_sizes_are_those_of_the_published_models():
    assert memory.estimate_need(getattr(recipes, SMALL)().fit).num_parameters == pytest.approx(2.13e9, rel=0.01)
    assert memory.estimate_need(getattr(recipes, LARGE)().fit).num_parameters == pytest.approx(4.44e9, rel=0.01)


def test_what_cannot_fit_is_refused_with_what_to_change():
    settings = dataclasses.replace(recipes.qwen3_vl_2b_1x32gb().fit, tokens_per_pack=65536)
    with pytest.raises(InputError, match=r"needs about \d+\.\d GiB, and the recipe's GPUs have 31 .*tokens_per_pack"):
        memory.check(settings)
    memory.check(dataclasses.replace(settings, gradient_checkpointing=True))
    memory.check(dataclasses.replace(settings, gpu_memory_gib=None))


def test_more_workers_share_the_optimizer_and_offloading_takes_it_away():
    one = recipes.qwen3_vl_2b_1x80gb().fit
    alone, eight = memory.estimate_need(one), memory.estimate_need(dataclasses.replace(one, num_workers=8))
    away = memory.estimate_need(dataclasses.replace(one, offload_optimizer=True))
    assert alone.trainable > eight.trainable > away.trainable == 8 * alone.num_trainable
    assert alone.weights == eight.weights == away.weights


def test_activations_are_those_that_autograd_keeps_of_a_real_pack(model, monkeypatch):
    monkeypatch.setattr(memory, "read_model_config", lambda *_: model.config)
    settings = config(tokens_per_pack=400, max_length=200)
    expected = memory.estimate_need(settings)
    adapted = attach(model, rank=settings.lora_rank, alpha=settings.lora_alpha, seed=0, base="base")
    assert expected.num_trainable == num_trainable(adapted)
    own = {parameter.untyped_storage().data_ptr() for parameter in adapted.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        adapted.get_base_model().model(
            input_ids=torch.zeros(1, 400, dtype=torch.long),
            position_ids=torch.arange(400).expand(3, 1, -1),
            lengths=(200, 200),
            use_cache=False,
        )
    found = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert expected.activations == pytest.approx(found, rel=0.25)


@pytest.mark.parametrize(
    ("num_tokens", "checkpointing", "measured_gib"), [(16248, False, 41.5), (16248, True, 8.2), (3601, False, 13.4)]
)
def test_the_2b_needs_what_it_was_measured_to_need_on_an_h100(num_tokens, checkpointing, measured_gib):
    """torch.cuda.max_memory_allocated of steps whose largest pack has so many tokens."""
    settings = dataclasses.replace(
        recipes.qwen3_vl_2b_1x80gb().fit, tokens_per_pack=num_tokens, gradient_checkpointing=checkpointing
    )
    need = memory.estimate_need(settings)
    in_use = need.weights + need.trainable + need.activations + need.logits
    assert in_use / (1 << 30) == pytest.approx(measured_gib, rel=0.03)
    assert need.gib > measured_gib


def test_a_base_of_another_kind_or_nowhere_is_named(tmp_path):
    with pytest.raises(InputError, match="The layer sizes of no/such-model are not known"):
        memory.read_model_config("no/such-model")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="is a llama, and no Qwen3-VL model"):
        memory.read_model_config(str(tmp_path))


def test_zero_3_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match="lora_B at zero"):
        resolve("pocket", ["train"], ["fit.zero_stage=3"])
