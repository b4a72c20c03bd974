"""The counted FLOPs are those that torch counts, and a GPU is known by its own name."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from train.adapter import attach
from train.loss import Targets
from train.packing import Batch
from train.student import TargetLoss
from train.utilization import FlopCounter, peak_flops

LENGTHS, NUM_TARGETS = (40, 24), 20


def _adapted():
    """Wide enough for weights to outweigh all else, and deep enough for the first layer to be one of many."""
    text = {
        "vocab_size": 300,
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 1, "out_hidden_size": 64}
    config = Qwen3VLConfig(text_config=text, vision_config=vision | {"deepstack_visual_indexes": [0]})
    implementation = {"text_config": "packed", "vision_config": "sdpa"}
    model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=implementation)
    return attach(model, rank=4, alpha=8, seed=0, base="base")


def test_a_step_takes_the_flops_that_torch_counts():
    adapted, num_tokens = _adapted(), sum(LENGTHS)
    none_S0 = torch.zeros(NUM_TARGETS, 0)
    batch = Batch(
        input_ids_1T=torch.randint(300, (1, num_tokens)),
        positions_31T=torch.arange(num_tokens).expand(3, 1, -1),
        lengths=LENGTHS,
        predicting_S=torch.arange(NUM_TARGETS),
        targets=Targets(torch.randint(300, (NUM_TARGETS,)), torch.ones(NUM_TARGETS), none_S0.long(), none_S0),
    )
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **rest: 2 * a[0] * a[1] * b[1]}  # which torch does not count
    with FlopCounterMode(display=False, custom_mapping=in_place) as counter:
        objective, _ = TargetLoss(adapted)(batch, None)
        objective.backward()
    counted = sum(counter.get_flop_counts()["Global"].values())
    flop_counter = dataclasses.replace(FlopCounter.of(adapted), attention=0)  # which torch does not count on a CPU
    assert flop_counter.flops(LENGTHS, NUM_TARGETS) == pytest.approx(counted, rel=0.02)


def test_attention_counts_by_pairs_within_an_example():
    flop_counter = FlopCounter(num_frozen=0, num_trainable=0, head=0, attention=10)
    assert flop_counter.flops([3, 4], 5) == 6 * 10 * (9 + 16)
    assert FlopCounter(num_frozen=2, num_trainable=1, head=5, attention=0).flops([3, 4], 5) == 14 * 7 + 20 * 5


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("NVIDIA H200", 989e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("Some other GPU", None),
    ],
)
def test_a_gpu_is_known_by_its_own_name(name, flops):
    assert peak_flops(name) == flops
