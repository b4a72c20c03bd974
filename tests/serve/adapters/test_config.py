"""Which of PEFT's settings are served: each is decided, and targets are those that PEFT would choose."""

import dataclasses
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from peft.tuners.tuners_utils import check_target_module_exists

from serve.adapters import config as adapter_config
from serve.adapters.config import AdapterConfig, read_config
from tests.serve.adapters.adapter_folders import POCKET, config, pocket_base

# Neither is ever in a file: what PEFT sets at run time, and the one that it only computes with.
NEVER_SAVED = {"runtime_config"}


def test_each_setting_of_peft_is_decided():
    known = {field.name for field in dataclasses.fields(LoraConfig)} - NEVER_SAVED
    read, left_out = set(AdapterConfig.model_fields), set(adapter_config.IRRELEVANT)
    refused = set(adapter_config.UNSERVED)
    assert read | left_out | refused == known
    assert not (read & left_out or read & refused or left_out & refused)


def test_settings_as_peft_writes_them_are_served(tmp_path):
    LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj"], task_type="CAUSAL_LM").save_pretrained(tmp_path)
    read = read_config(tmp_path)
    assert (read.r, read.scaling, read.target_modules) == (16, 2.0, ["q_proj"])


def test_settings_that_an_older_peft_wrote_are_served(tmp_path):
    (tmp_path / "adapter_config.json").write_text(
        json.dumps(config(fan_in_fan_out=False, megatron_core="megatron.core"))
    )
    assert read_config(tmp_path).scaling == 2.0


ENDS = st.sampled_from(
    ["q_proj", "self_attn.k_proj", "proj", "mlp", "0.mlp.up_proj", "model.language_model.layers.1.mlp.up_proj"]
)
PATTERNS = st.sampled_from([r".*\.[02]\..*", r".*_proj", "q_proj", r".*(up|q)_proj", "model"])
SELECTIONS = PATTERNS | st.lists(ENDS, min_size=1, max_size=3)


@given(
    target=st.lists(ENDS, min_size=1, max_size=3),
    exclude=st.none() | SELECTIONS,
    layers=st.none() | st.integers(0, 4) | st.lists(st.integers(0, 4), max_size=3),
    layers_pattern=st.sampled_from([None, "layers", ["layers"], "", []]),
)
def test_lists_select_what_peft_selects(target, exclude, layers, layers_pattern):
    settings = {"exclude_modules": exclude, "layers_to_transform": layers, "layers_pattern": layers_pattern}
    if layers is None:
        settings["layers_pattern"] = None
    theirs = LoraConfig(target_modules=target, **settings)
    ours = AdapterConfig(**config(target_modules=target, **settings))
    names = pocket_base().layers
    assert ours.targeted(names) == {name for name in names if check_target_module_exists(theirs, name) is True}


@pytest.mark.parametrize("pattern", [r".*\.[02]\..*", r".*_proj", "q_proj", r".*(up|q)_proj", r"(?!.*mlp).*", "model"])
def test_pattern_selects_what_peft_selects(pattern):
    names = pocket_base().layers
    theirs = LoraConfig(target_modules=pattern)
    ours = AdapterConfig(**config(target_modules=pattern))
    assert ours.targeted(names) == {name for name in names if check_target_module_exists(theirs, name)}


def test_pattern_that_would_take_all_memory_is_refused_in_little():
    code = """if True:
        import resource
        from serve.adapters.config import AdapterConfig
        config = AdapterConfig(peft_type="LORA", r=1, lora_alpha=1, target_modules="(?:a|){2000000000}")
        try:
            config.targeted(["model"])
        except ValueError as error:
            print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, error)
        """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=POCKET.parents[2], capture_output=True, text=True, check=True
    )
    kibibytes, reason = done.stdout.split(maxsplit=1)
    assert int(kibibytes) < 300 << 10
    assert "is invalid, or takes too long" in reason
