"""An adapter and its base become one model that says the same."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import Qwen3VLForConditionalGeneration, Qwen3VLProcessor

from infra.errors import InputError
from tests.flow.conftest import PROJECT
from tests.train.conftest import tiny
from train import adapter
from train.merge import merge


@pytest.fixture
def base(processor, tmp_path):
    folder = tmp_path / "base"
    tiny(processor, "sdpa").save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def fitted(base, tmp_path):
    model = Qwen3VLForConditionalGeneration.from_pretrained(base, trust_remote_code=False)
    adapted = adapter.attach(model, rank=2, alpha=4, seed=0, base=str(base))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    (tmp_path / "adapter").mkdir()
    adapter.save(adapted, tmp_path / "adapter")
    (tmp_path / "adapter/README.md").write_text("# card")
    return adapted.eval()


def test_a_merged_model_says_what_base_and_adapter_say_together(fitted, base, tmp_path):
    merge(tmp_path / "adapter", tmp_path / "merged")
    merged = Qwen3VLForConditionalGeneration.from_pretrained(tmp_path / "merged", trust_remote_code=False).eval()
    plain = Qwen3VLForConditionalGeneration.from_pretrained(base, trust_remote_code=False).eval()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        expected, found, untaught = (model(input_ids=ids).logits for model in (fitted, merged, plain))
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, untaught, atol=1e-3)
    assert (
        Qwen3VLProcessor.from_pretrained(tmp_path / "merged", trust_remote_code=False).tokenizer.eos_token
        == "<|im_end|>"
    )
    assert (tmp_path / "merged/README.md").read_text() == "# card"
    assert not list(tmp_path.glob(".merged*"))


@pytest.mark.usefixtures("fitted")
def test_what_cannot_be_merged_is_one_clear_error_and_leaves_nothing(base, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there is there already"):
        merge(tmp_path / "adapter", tmp_path / "there")
    with pytest.raises(InputError, match="base is no adapter"):
        merge(base, tmp_path / "merged")
    with pytest.raises(InputError, match=r"do not go together.*--base"):
        merge(tmp_path / "adapter", tmp_path / "merged", base=str(tmp_path / "nowhere"))
    config = json.loads((base / "config.json").read_text())
    config["text_config"]["hidden_size"] *= 2
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not go together"):
        merge(tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".merged*"))


@pytest.mark.slow
def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "train.merge", str(tmp_path), str(tmp_path / "merged")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"merge: error: {tmp_path} is no adapter" in done.stderr
