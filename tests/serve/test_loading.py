"""Adapter folders: what is loaded, and what is refused before an engine sees it."""

import json
from pathlib import Path

import pytest

from infra.errors import InputError
from serve import loading

TENSOR = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"


def write_weights(path: Path, *names: str) -> None:
    header = {name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for name in names}
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


@pytest.fixture
def folder(tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 16}))
    write_weights(adapter / "adapter_model.safetensors", TENSOR)
    return adapter


def test_peft_folder_opens(folder):
    opened = loading.open_adapter(folder)
    assert (opened.rank, opened.tensors) == (16, (TENSOR,))


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(InputError, match=name):
        loading.open_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "optimizer.pt", "weights.pkl"])
def test_pickled_file_is_refused_even_beside_safetensors(folder, name):
    (folder / name).write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="pickled"):
        loading.open_adapter(folder)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_file_that_leads_out_of_the_folder_is_refused(folder, name):
    outside = folder.parent / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(InputError, match="leads out of its folder"):
        loading.open_adapter(folder)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "no adapter config"),
        ("[1]", "no adapter config"),
        ("{}", "no adapter config"),
        ('{"peft_type": "IA3", "r": 8}', "IA3"),
        ('{"peft_type": "LORA", "r": "8"}', "r = '8'"),
        ('{"peft_type": "LORA", "r": 0}', "r = 0"),
        (" " * 1_000_001, "1000001 bytes"),
    ],
)
def test_unfit_config_is_refused(folder, text, word):
    (folder / "adapter_config.json").write_text(text)
    with pytest.raises(InputError, match=word):
        loading.open_adapter(folder)


@pytest.mark.parametrize(
    "data", [b"", b"short", b"\xff" * 64, (9).to_bytes(8, "little") + b"not json!", (2).to_bytes(8, "little") + b"[]"]
)
def test_damaged_weights_are_refused(folder, data):
    (folder / "adapter_model.safetensors").write_bytes(data)
    with pytest.raises(InputError, match="safetensors"):
        loading.open_adapter(folder)


def test_weights_that_would_be_ignored_in_silence_are_refused(folder):
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    write_weights(folder / "adapter_model.safetensors", TENSOR, name)
    with pytest.raises(InputError, match="outside the language model"):
        loading.open_adapter(folder)


def test_rank_limit_holds_the_largest_adapter():
    assert [loading.loadable_rank(ranks) for ranks in ([4], [8, 16], [17])] == [8, 16, 32]
    with pytest.raises(InputError, match="513"):
        loading.loadable_rank([8, 513])
