"""What the check of adapters accepts, the real engine serves as PEFT computes it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3VLForConditionalGeneration

from infra.errors import InputError
from serve.adapters import folder as adapter_folder
from tests.flow import first_token
from tests.flow.conftest import PROJECT
from tests.serve.adapters.adapter_folders import POCKET, pocket_base
from train.adapter import LANGUAGE_LINEARS

TOKEN_IDS = [int(token) for token in torch.randint(0, 470, (40,), generator=torch.Generator().manual_seed(5))]
# Each with settings that the engine reads by itself, or leaves to what lies in the file.
ADAPTERS = {
    "one of the fused layers in bfloat16": (torch.bfloat16, {"r": 8, "lora_alpha": 4, "target_modules": ["q_proj"]}),
    "all layers, odd rank and scale": (torch.float32, {"r": 3, "lora_alpha": 10, "target_modules": LANGUAGE_LINEARS}),
    "rank-stabilized in float16": (
        torch.float16,
        {"r": 16, "lora_alpha": 8, "use_rslora": True, "target_modules": ["k_proj", "gate_proj"]},
    ),
    "some layers, some left out": (
        torch.float32,
        {
            "r": 5,
            "lora_alpha": 5,
            "target_modules": ["v_proj", "up_proj", "down_proj"],
            "layers_to_transform": [1, 3],
            "exclude_modules": ["3.mlp.up_proj"],
            "init_lora_weights": "gaussian",
            "lora_dropout": 0.5,
        },
    ),
}
# What the check refuses, since the engine takes one rank and one scale for all layers.
REFUSED = {
    "scales of their own": (
        torch.float32,
        {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "alpha_pattern": {"q_proj": 64}},
    ),
    "ranks of their own": (
        torch.float32,
        {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 16}},
    ),
}
TOLERANCE = 1e-4  # seen: 6e-6 where served rightly, 1.0 and more where not


def save(model: torch.nn.Module, folder: Path, dtype: torch.dtype, settings: dict) -> None:
    """A folder as PEFT writes it, of an adapter that has learned something."""
    torch.manual_seed(len(settings))
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)
    adapted.save_pretrained(folder)
    adapted.unload()


def logprobs(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([TOKEN_IDS])).logits[0, -1].log_softmax(-1)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("adapters")
    return {name: folder / str(number) for number, name in enumerate(ADAPTERS | REFUSED)}


@pytest.fixture(scope="module")
def expected_and_served(folders):
    model = Qwen3VLForConditionalGeneration.from_pretrained(POCKET, dtype=torch.float32, trust_remote_code=False).eval()
    expected = {first_token.BASE: logprobs(model)}
    for name, (dtype, settings) in (ADAPTERS | REFUSED).items():
        save(model, folders[name], dtype, settings)
        adapted = PeftModel.from_pretrained(model, folders[name]).eval()
        expected[name] = logprobs(adapted)
        adapted.unload()
    opened = [adapter_folder.open_adapter(each, pocket_base()) for name, each in folders.items() if name in ADAPTERS]
    request = {
        "model": str(POCKET),
        "max_lora_rank": adapter_folder.loadable_rank(each.rank for each in opened),
        "token_ids": TOKEN_IDS,
        "adapters": {name: str(each) for name, each in folders.items()},
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.flow.first_token"],
        cwd=PROJECT,
        env=os.environ | first_token.ENGINE.environment() | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return expected, json.loads(done.stdout.splitlines()[-1])


def largest_difference(expected_and_served, name: str) -> float:
    expected, served = (each[name] for each in expected_and_served)
    assert len(served) >= first_token.TOP
    return max(abs(logprob - expected[int(token)].item()) for token, logprob in served.items())


@pytest.mark.parametrize("name", [first_token.BASE, *ADAPTERS])
def test_accepted_adapter_answers_as_peft_computes_it(expected_and_served, name):
    assert largest_difference(expected_and_served, name) < TOLERANCE


@pytest.mark.parametrize("name", ADAPTERS)
def test_accepted_adapter_does_not_answer_as_its_base(expected_and_served, name):
    expected, _ = expected_and_served
    assert (expected[name] - expected[first_token.BASE]).abs().max() > 1000 * TOLERANCE


@pytest.mark.parametrize("name", REFUSED)
def test_adapter_that_the_engine_would_serve_wrongly_is_refused(expected_and_served, folders, name):
    assert largest_difference(expected_and_served, name) > 1000 * TOLERANCE
    with pytest.raises(InputError, match="the engine scales all layers"):
        adapter_folder.open_adapter(folders[name], pocket_base())
