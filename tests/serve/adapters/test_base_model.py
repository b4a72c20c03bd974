"""The base that adapters are compared with: read from headers, of one file or several, a folder or the hub's cache."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from infra.digests import digest_json, digest_material
from infra.errors import InputError
from serve.adapters.base_model import LANGUAGE_LINEARS, open_base
from tests.serve.adapters.adapter_folders import POCKET, pocket_base

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(POCKET, tmp_path / "base")


def opened(folder):
    return open_base(str(folder), digest_material(folder))


def split(folder) -> list[str]:
    """Its one file of weights as two with an index; the shards' names."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    weight_map = {name: shards[number % 2] for number, name in enumerate(sorted(tensors))}
    for shard in shards:
        save_file({name: tensors[name] for name, own in weight_map.items() if own == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return shards


def test_layers_and_shapes_are_those_of_the_model():
    layers = pocket_base().layers
    assert len(layers) == 4 * 7
    shapes = {name.rsplit(".", 1)[1]: shape for name, shape in layers.items()}
    assert shapes == {
        "q_proj": (128, 128),
        "k_proj": (64, 128),
        "v_proj": (64, 128),
        "o_proj": (128, 128),
        "gate_proj": (384, 128),
        "up_proj": (384, 128),
        "down_proj": (128, 384),
    }


def test_layers_are_those_that_fitting_adapts():
    from train import adapter

    assert LANGUAGE_LINEARS == adapter.LANGUAGE_LINEARS
    assert all(re.fullmatch(adapter.LANGUAGE_LINEARS, name) for name in pocket_base().layers)


def test_base_in_several_files_is_the_same(folder):
    split(folder)
    assert opened(folder).layers == pocket_base().layers


def test_missing_part_of_a_base_is_named(folder):
    (folder / split(folder)[1]).unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002\.safetensors is missing"):
        opened(folder)


def test_truncated_base_is_named(folder):
    with (folder / WEIGHTS).open("r+b") as stream:
        stream.truncate(100_000)
    with pytest.raises(InputError, match=r"model\.safetensors is no whole safetensors file"):
        opened(folder)


@pytest.mark.parametrize("weight_map", [{"a": "../other/model.safetensors"}, {"a": ["b"]}, None, 7])
def test_index_that_leads_elsewhere_is_refused(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="which is no file beside it"):
        opened(folder)


def test_base_that_changed_since_the_fit_is_refused(folder):
    sealed = digest_material(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 1e-5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=rf"was changed after the adapters were fitted.*then {sealed[:10]}"):
        open_base(str(folder), sealed)


def test_model_of_another_kind_is_refused(folder):
    from safetensors.numpy import save_file

    from tests.serve.adapters.adapter_folders import zeros

    save_file({"model.layers.0.self_attn.q_proj.weight": zeros(4, 4)}, folder / WEIGHTS)
    with pytest.raises(InputError, match="has no layer such as"):
        opened(folder)


def test_model_of_the_hub_is_read_from_the_local_cache(folder, tmp_path, monkeypatch):
    repository = tmp_path / "hub" / "models--some--base"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c" * 40)
    shutil.copytree(folder, repository / "snapshots" / ("c" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"hf download some/base --revision v2\)"):
        open_base("some/base", "0" * 64, "v2")
    (repository / "refs" / "v2").write_text("c" * 40)
    assert open_base("some/base", "0" * 64, "v2").layers == pocket_base().layers
    assert open_base("some/base", digest_json({"id": "some/base"})).layers == pocket_base().layers


@pytest.mark.parametrize("source", ["some/base", "/nowhere/at all"])
def test_base_that_is_not_on_this_machine_says_what_to_type(source, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=f"{source} is neither a folder nor in this machine's hub cache.*hf download"):
        open_base(source, "0" * 64)


def test_checking_imports_no_engine():
    modules = "serve.adapters.folder, serve.adapters.base_model"
    code = f"import sys, {modules}; print({{'torch', 'vllm', 'peft', 'ray'}} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=POCKET.parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
