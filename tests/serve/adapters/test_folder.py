"""Adapter folders: what is served, and what is refused before an engine sees it."""

import dataclasses
import json
import os
import socket
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from infra.errors import InputError
from serve.adapters import folder as adapter_folder
from tests.serve.adapters import adapter_folders as folders
from tests.serve.adapters.adapter_folders import (
    DOWN_PROJ,
    Q_PROJ,
    RANK,
    config,
    entries,
    file_bytes,
    name_of,
    tensors,
    weights,
    zeros,
)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
A, B = name_of(Q_PROJ, "A"), name_of(Q_PROJ, "B")


@pytest.fixture(scope="module")
def base():
    return folders.pocket_base()


@pytest.fixture
def folder(tmp_path):
    return folders.write(tmp_path / "adapter")


def refusal(folder, base) -> str:
    """What the check says against a folder; it is short whatever the folder holds."""
    with pytest.raises(InputError) as raised:
        adapter_folder.open_adapter(folder, base)
    message = str(raised.value).replace(str(folder), "")
    assert len(message) < 500
    message.encode()
    return message


def test_peft_folder_opens(folder, base):
    opened = adapter_folder.open_adapter(folder, base)
    assert opened == adapter_folder.AdapterFolder(path=folder, rank=RANK, modules=(Q_PROJ, DOWN_PROJ))


def test_adapter_as_fitting_saves_it_is_served(tmp_path, base):
    from transformers import Qwen3VLForConditionalGeneration

    from train import adapter

    model = Qwen3VLForConditionalGeneration.from_pretrained(base.source, dtype="auto", trust_remote_code=False)
    adapted = adapter.attach(model, rank=16, alpha=32, seed=0, base=base.source)
    adapter.save(adapted, tmp_path)
    (tmp_path / "training.json").write_text("{}")
    assert "nothing was learned" in refusal(tmp_path, base)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1
    adapter.save(adapted, tmp_path)
    opened = adapter_folder.open_adapter(tmp_path, base)
    assert (opened.rank, set(opened.modules)) == (16, set(base.layers))


@pytest.mark.parametrize(
    "served",
    [
        {"lora_alpha": 0.5},
        {"use_rslora": True},
        {"target_modules": r".*\.(0\.self_attn\.q_proj|3\.mlp\.down_proj)"},
        {"target_modules": ["q_proj", "down_proj"], "exclude_modules": r".*\.(0\.mlp|3\.self_attn|[12])\..*"},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": False},
        {"modules_to_save": [], "rank_pattern": {}, "alpha_pattern": None, "unknown": False},
        {
            "lora_dropout": 0.1,
            "task_type": "CAUSAL_LM",
            "inference_mode": True,
            "auto_mapping": {"base_model_class": "Q"},
        },
        {"base_model_name_or_path": "/elsewhere/base"},
    ],
    ids=repr,
)
def test_settings_that_the_engine_follows_or_that_change_nothing_are_served(tmp_path, base, served):
    folder = folders.write(tmp_path / "a", config(**served))
    assert adapter_folder.open_adapter(folder, base).modules == (Q_PROJ, DOWN_PROJ)


def test_adapter_of_some_layers_is_served(tmp_path, base):
    modules = tuple(
        name.format(i) for i in (0, 3) for name in (Q_PROJ.replace("0", "{}"), DOWN_PROJ.replace("3", "{}"))
    )
    some = config(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 3], layers_pattern="layers")
    folder = folders.write(tmp_path / "a", some, weights(tensors(*modules)))
    assert adapter_folder.open_adapter(folder, base).modules == modules


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint16"])
def test_weights_are_read_in_each_precision(tmp_path, base, dtype):
    folder = folders.write(tmp_path / "a", data=weights(tensors(dtype=dtype)))
    assert adapter_folder.open_adapter(folder, base).modules == (Q_PROJ, DOWN_PROJ)


def test_files_that_lie_beside_an_adapter_are_left_alone(folder, base):
    for name in ("README.md", "training.json", "tokenizer.json", "merges.txt", "chat_template.jinja", ".gitattributes"):
        (folder / name).write_bytes(b"\xff[[[")
    assert adapter_folder.open_adapter(folder, base).rank == RANK


# Hostile settings: text of adapter_config.json, or its value -> the start of a reason.
DEEP = b"[" * 100_000
HOSTILE_CONFIGS = {
    "half JSON": (b"{", "is no JSON"),
    "empty": (b"", "is no JSON"),
    "a list": (b"[1]", "holds [1] where a JSON object belongs"),
    "deep list": (DEEP, "nested too deeply"),
    "deep setting": (b'{"r": ' + DEEP, "nested too deeply"),
    "deep and closed": (b'{"r": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested too deeply"),
    "no UTF-8": (b'{"r": "\xff"}', "not UTF-8"),
    "lone surrogate": (b'{"peft_type": "\\ud800"}', "not UTF-8"),
    "a name twice": (b'{"r": 4, "r": 8}', "'r' comes twice"),
    "NaN": (b'{"lora_alpha": NaN}', "NaN is no number"),
    "infinite": (b'{"lora_alpha": 1e999}', "Out of range float"),
    "digits without end": (b'{"r": ' + b"9" * 10_000 + b"}", "is no JSON"),
    "too large": (b" " * 1_000_001, "1000001 bytes"),
    "no settings": ({}, "peft_type"),
    "other kind": (config(peft_type="IA3"), "peft_type = 'IA3'"),
    "list for kind": (config(peft_type=["LORA"] * 99), "peft_type = ['LORA'"),
    "no rank": (config(r=...), "r (Field required)"),
    "rank zero": (config(r=0), "r = 0"),
    "rank negative": (config(r=-8), "r = -8"),
    "rank a text": (config(r="8"), "r = '8'"),
    "rank a fraction": (config(r=4.0), "r = 4.0"),
    "rank true": (config(r=True), "r = True"),
    "rank of a billion": (config(r=10**9), "r = 1000000000"),
    "rank above the engine's": (config(r=513), "r = 513"),
    "rank against tensors": (config(r=8), "in the shape [4, 128]; r = 8"),
    "no alpha": (config(lora_alpha=...), "lora_alpha (Field required)"),
    "alpha zero": (config(lora_alpha=0), "lora_alpha = 0"),
    "alpha negative": (config(lora_alpha=-16), "lora_alpha = -16"),
    "alpha null": (config(lora_alpha=None), "lora_alpha = None"),
    "alpha immense": (config(lora_alpha=1e30), "lora_alpha = 1e+30"),
    "no targets": (config(target_modules=None), "target_modules = None"),
    "targets empty": (config(target_modules=[]), "target_modules = []"),
    "targets of numbers": (config(target_modules=[1] * 4000), "target_modules = [1, 1"),
    "targets without number": (config(target_modules=["q_proj"] * 5000), "target_modules = ['q_proj'"),
    "other targets": (config(target_modules=["k_proj"]), "k_proj is a target and has no weights"),
    "one target less": (config(target_modules=[Q_PROJ]), f"{DOWN_PROJ} has weights and is no target"),
    "one target more": (config(target_modules=["q_proj", DOWN_PROJ]), "is a target and has no weights"),
    "a target excluded": (config(exclude_modules=["q_proj"]), "has weights and is no target"),
    "layers left out": (
        config(target_modules=["q_proj", "down_proj"], layers_to_transform=[0]),
        "layers.0.mlp.down_proj is a target and has no weights",
    ),
    "other layers": (config(layers_pattern="blocks"), "layers_pattern = 'blocks'"),
    "pattern that is none": (config(target_modules="("), "the pattern '(' is invalid"),
    "pattern without memory": (config(target_modules="(?:(?:a?){999}){999}" * 9), "is invalid, or takes too long"),
    "deep pattern": (config(target_modules="(" * 5000), "is invalid, or takes too long"),
    "DoRA": (config(use_dora=True), "the engine does not serve DoRA"),
    "rsLoRA as a text": (config(use_rslora="false"), "use_rslora = 'false'"),
    "bias": (config(bias="all"), "bias = 'all'"),
    "bias of LoRA": (config(lora_bias=True), "lora_bias"),
    "saved modules": (config(modules_to_save=["lm_head"]), "modules_to_save"),
    "other ranks": (config(rank_pattern={"q_proj": 8}), "rank_pattern"),
    "other alphas": (config(alpha_pattern={"q_proj": 8}), "alpha_pattern"),
    "changed base": (config(init_lora_weights="pissa"), "init_lora_weights = 'pissa'"),
    "changed base otherwise": (config(init_lora_weights="olora"), "init_lora_weights = 'olora'"),
    "transposed": (config(fan_in_fan_out=True), "fan_in_fan_out"),
    "layers twice": (config(layer_replication=[[0, 4]]), "layer_replication"),
    "tokens": (config(trainable_token_indices=[1]), "trainable_token_indices"),
    "parameters": (config(target_parameters=["experts"]), "target_parameters"),
    "activated by tokens": (config(alora_invocation_tokens=[1]), "alora_invocation_tokens"),
    "block-diagonal": (config(use_bdlora={"x": 1}), "use_bdlora"),
    "of a later PEFT": (config(use_novelty=True), "'use_novelty' = True: what the engine makes of it is not known"),
    "long name": (config(**{"x" * 10_000: "y" * 10_000}), "xxx"),
}


@pytest.mark.parametrize(("text", "reason"), HOSTILE_CONFIGS.values(), ids=HOSTILE_CONFIGS)
def test_hostile_config_is_refused_with_its_reason(tmp_path, base, text, reason):
    message = refusal(folders.write(tmp_path / "a", text), base)
    assert CONFIG in message
    assert reason in message


def changed(**arrays: np.ndarray) -> bytes:
    """Weights with these in the place of, or beside, the right ones: lora_A, lora_B of q_proj, or whole names."""
    short = {"a": A, "b": B}
    return weights(tensors() | {short.get(name, name): array for name, array in arrays.items()})


def without(*names: str) -> bytes:
    return weights({name: array for name, array in tensors().items() if name not in names})


def with_value(value: float, dtype: str = "float32") -> bytes:
    array = tensors(dtype=dtype)[B].copy()
    array[7, 1] = value
    return weights(tensors(dtype=dtype) | {B: array})


def with_entry(**entry) -> bytes:
    """Weights with something else in the header's entry of the first tensor."""
    header = entries(tensors())
    header[A] |= entry
    return file_bytes(header, folders.data_of(tensors()))


def header_text(text: str) -> bytes:
    return file_bytes(text.encode(), bytes(4))


ONE = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
WHOLE = weights(tensors())
VISION = "base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"
HOSTILE_WEIGHTS = {
    "empty file": (b"", "is no safetensors file"),
    "short file": (b"short", "is no safetensors file"),
    "no header": (b"\xff" * 64, "is no safetensors file"),
    "header of 100 MB claimed": ((10**8).to_bytes(8, "little") + b"{}", "would take 100000000 of 10 bytes"),
    "header of all bytes there are": ((2**64 - 1).to_bytes(8, "little") + b"{}", "would take"),
    "header no JSON": (header_text("not json!"), "is no JSON"),
    "header a list": (header_text("[]"), "where a JSON object belongs"),
    "header deep": (file_bytes(b'{"a":' + DEEP, b""), "nested too deeply"),
    "header no UTF-8": (file_bytes(b'{"\xff": 1}', b""), "not UTF-8"),
    "no tensors": (header_text('{"__metadata__": {"format": "pt"}}')[:-4], "holds no tensors"),
    "a tensor twice": (header_text(f'{{"a": {ONE}, "a": {ONE}}}'), "'a' comes twice"),
    "list for an entry": (header_text('{"a": ["F32", [1], [0, 4]]}'), "has ['F32', [1], [0, 4]] for 'a'"),
    "entry without shape": (header_text('{"a": {"dtype": "F32"}}'), "no whole safetensors file"),
    "truncated": (WHOLE[:-100], "no whole safetensors file"),
    "truncated in the header": (WHOLE[:200], "would take"),
    "longer than it says": (WHOLE + bytes(8), "no whole safetensors file"),
    "offsets out of range": (with_entry(data_offsets=[0, 10**12]), "no whole safetensors file"),
    "offsets reversed": (with_entry(data_offsets=[8, 0]), "no whole safetensors file"),
    "offsets negative": (with_entry(data_offsets=[-2048, 0]), "no whole safetensors file"),
    "offsets that overlap": (with_entry(data_offsets=[2048, 4096]), "no whole safetensors file"),
    "10^12 elements": (with_entry(shape=[10**12]), "no whole safetensors file"),
    "elements beyond any number": (with_entry(shape=[2**33, 2**33]), "no whole safetensors file"),
    "unknown type": (with_entry(dtype="F31"), "no whole safetensors file"),
    "whole numbers": (changed(a=np.ones((RANK, 128), "int8")), "as 'I8'"),
    "double precision": (changed(a=np.ones((RANK, 128), "float64")), "as 'F64'"),
    "rank of its own": (changed(a=zeros(8, 128), b=zeros(128, 8)), "in the shape [8, 128]"),
    "other input": (changed(a=zeros(RANK, 2048)), "in the shape [4, 2048]"),
    "other output": (changed(b=zeros(64, RANK)), "in the shape [64, 4]"),
    "transposed": (changed(a=zeros(128, RANK)), "in the shape [128, 4]"),
    "no shape": (changed(a=np.float32(1).reshape(())), "in the shape []"),
    "three dimensions": (changed(a=zeros(1, RANK, 128)), "in the shape [1, 4, 128]"),
    "no elements": (changed(a=zeros(0, 128)), "in the shape [0, 128]"),
    "A alone": (without(B), f"no lora_B for {Q_PROJ}"),
    "B alone": (without(A), f"no lora_A for {Q_PROJ}"),
    "a layer left out": (without(A, B), f"{Q_PROJ} is a target and has no weights"),
    "vision": (changed(**{VISION: zeros(RANK, 96)}), "no language layer"),
    "of a text-only class": (changed(**{A.replace("language_model.", ""): zeros(RANK, 128)}), "no language layer"),
    "a layer that the base has not": (changed(**{A.replace("s.0.", "s.4."): zeros(RANK, 128)}), "no language layer"),
    "a module that the base has not": (
        changed(**{A.replace("q_proj", "z_proj"): zeros(RANK, 128)}),
        "no language layer",
    ),
    "head": (changed(**{"base_model.model.lm_head.lora_A.weight": zeros(RANK, 128)}), "no language layer"),
    "whole module": (changed(**{f"base_model.model.{Q_PROJ}.weight": zeros(128, 128)}), "no language layer"),
    "magnitudes of DoRA": (changed(**{A.replace("lora_A.weight", "lora_magnitude_vector"): zeros(128)}), "no language"),
    "bias": (changed(**{B.replace("weight", "bias"): zeros(128)}), "no language layer"),
    "name of an adapter": (changed(**{A.replace("lora_A", "lora_A.default"): zeros(RANK, 128)}), "no language layer"),
    "prefix twice": (changed(**{f"base_model.model.{A}": zeros(RANK, 128)}), "no language layer"),
    "prefix missing": (changed(**{A.removeprefix(folders.PREFIX): zeros(RANK, 128)}), "no language layer"),
    "long name": (changed(**{"x" * 100_000: zeros(1)}), "no language layer"),
    "NaN": (with_value(np.nan), f"has nan in lora_B of {Q_PROJ}"),
    "NaN in float16": (with_value(np.nan, "float16"), "has nan in lora_B"),
    "NaN in bfloat16": (with_value(0x7FC1, "uint16"), "has nan in lora_B"),
    "infinite": (with_value(-np.inf), "has inf in lora_B"),
    "infinite in bfloat16": (with_value(0xFF80, "uint16"), "has inf in lora_B"),
    "overflow": (with_value(1e30), "lora_B"),
    "overflow once scaled": (with_value(60_000.0), "lora_B, scaled,"),
    "nothing learned": (
        weights({name: array * (".lora_A." in name) for name, array in tensors().items()}),
        "nothing was learned",
    ),
}


@pytest.mark.parametrize(("data", "reason"), HOSTILE_WEIGHTS.values(), ids=HOSTILE_WEIGHTS)
def test_hostile_weights_are_refused_with_their_reason(tmp_path, base, data, reason):
    folder = folders.write(tmp_path / "a", data=data)
    message = refusal(folder, base)
    assert reason in message
    assert WEIGHTS in message or reason.startswith(Q_PROJ)


HOSTILE_FILES = (
    "adapter_model.bin",
    "optimizer.pt",
    "scaler.pkl",
    "modeling.py",
    "run.sh",
    "lib.so",
    "other.safetensors",
)


@pytest.mark.parametrize("name", HOSTILE_FILES)
def test_file_that_could_hold_code_is_refused_even_beside_safetensors(folder, base, name):
    (folder / name).write_bytes(b"\x80\x04.")
    assert f"holds {name!r}, which is no file of an adapter" in refusal(folder, base)


@pytest.mark.parametrize("kind", ["folder with a pickle", "empty folder", "link", "broken link", "pipe", "socket"])
def test_what_is_no_plain_file_is_refused_unread(folder, base, kind, monkeypatch):
    strange = folder / "notes.md"
    if "folder" in kind:
        strange.mkdir()
        if "pickle" in kind:
            (strange / "weights.bin").write_bytes(b"\x80\x04.")
    elif "link" in kind:
        strange.symlink_to("/etc/hostname" if kind == "link" else "/nowhere")
    elif kind == "pipe":
        os.mkfifo(strange)
    else:
        monkeypatch.chdir(folder)
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(strange.name)
    assert "holds 'notes.md', which is a folder, a link or a device" in refusal(folder, base)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_file_that_leads_out_of_the_folder_is_refused(folder, base, name):
    outside = folder.parent / name
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    assert f"holds {name!r}, which is a folder, a link" in refusal(folder, base)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_pipe_in_the_place_of_a_file_does_not_hang_the_check(folder, base, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"holds {name!r}, which is a folder, a link" in refusal(folder, base)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_file_is_named(folder, base, name):
    (folder / name).unlink()
    assert f"{name} is missing" in refusal(folder, base)


@pytest.mark.parametrize("kind", ["missing", "file", "link"])
def test_what_is_no_folder_is_refused(folder, base, kind, tmp_path):
    other = tmp_path / "other"
    if kind == "file":
        other.touch()
    elif kind == "link":
        other.symlink_to(folder)
    assert "is no folder" in refusal(other, base)


def test_file_that_may_not_be_read_is_one_clear_error(folder, base, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(adapter_folder, "read_config", refuse)
    assert "cannot be read: [Errno 13]" in refusal(folder, base)


def test_manifest_that_names_another_base_is_refused(folder, base):
    (folder / "manifest.json").write_text(json.dumps({"made_from": {"materials": {"base": "0" * 64}}}))
    assert "fitted on another base" in refusal(folder, base)
    (folder / "manifest.json").write_text(json.dumps({"made_from": {"materials": {"base": base.digest}}}))
    assert adapter_folder.open_adapter(folder, base).rank == RANK


@pytest.mark.parametrize("text", ["{}", '{"made_from": []}', '{"made_from": {"materials": null}}'])
def test_manifest_that_does_not_name_the_base_is_refused(folder, base, text):
    (folder / "manifest.json").write_text(text)
    assert "does not say what the adapter was fitted on" in refusal(folder, base)


def test_adapter_of_another_hub_model_is_refused_though_its_shapes_are_the_same(tmp_path, base):
    served = dataclasses.replace(base, source="Qwen/Instruct")
    folder = folders.write(tmp_path / "a", config(base_model_name_or_path="Qwen/Thinking"))
    assert "names the base 'Qwen/Thinking', and Qwen/Instruct is served" in refusal(folder, served)
    folders.write(folder, config(base_model_name_or_path="Qwen/Instruct"))
    assert adapter_folder.open_adapter(folder, served).rank == RANK


def test_adapter_of_another_size_or_depth_is_refused(folder, base):
    larger = {name: (2 * num_out, 2 * num_in) for name, (num_out, num_in) in base.layers.items()}
    assert "in the shape [4, 128]" in refusal(folder, dataclasses.replace(base, layers=larger))
    fewer = {name: shape for name, shape in base.layers.items() if ".3." not in name}
    assert f"holds '{folders.PREFIX}{DOWN_PROJ}" in refusal(folder, dataclasses.replace(base, layers=fewer))


def test_rank_limit_holds_the_largest_adapter():
    assert [adapter_folder.loadable_rank(ranks) for ranks in ([4], [8, 16], [17])] == [8, 16, 32]
    with pytest.raises(InputError, match="513"):
        adapter_folder.loadable_rank([8, 513])


def test_pattern_that_would_take_for_ever_ends(tmp_path, base, monkeypatch):
    monkeypatch.setattr("serve.adapters.config._MAX_MATCHING_S", 0.5)
    folder = folders.write(tmp_path / "a", config(target_modules=r"(\w+|\.)+(\w+|\.)+(\w+|\.)+!"))
    started = time.monotonic()
    assert "takes too long" in refusal(folder, base)
    assert time.monotonic() - started < 5


def test_check_holds_one_tensor_at_a_time_and_believes_no_size_that_it_is_told(tmp_path, base):
    """Of a file with a gigabyte of data behind a tensor of the wrong shape nothing is read; nor of what is claimed."""
    folder = folders.write(tmp_path / "a", data=b"")
    header = json.dumps({A: {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}}).encode()
    with (folder / WEIGHTS).open("wb") as stream:
        stream.write(file_bytes(header, b""))
        stream.truncate(8 + len(header) + 2**30)  # a hole, which takes no disk
    tracemalloc.start()
    try:
        assert "in the shape [268435456]" in refusal(folder, base) or "no lora_B" in refusal(folder, base)
        for data in (HOSTILE_WEIGHTS["header of 100 MB claimed"][0], HOSTILE_WEIGHTS["10^12 elements"][0]):
            refusal(folders.write(folder, data=data), base)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


mutations = st.lists(
    st.tuples(st.sampled_from([CONFIG, WEIGHTS]), st.floats(0, 1, exclude_max=True), st.integers(0, 255)),
    min_size=1,
    max_size=4,
)
PIECES = [b"[" * 2000, b'"r"', b"1e999", b"\\ud800", b"NaN", b"-1", b"{}", b"null", b"\xff", b"4,4", b"", b"\x00" * 9]


SHAPES = {name: array.shape for name, array in tensors().items()}


@settings(max_examples=200, deadline=None)
@given(
    mutations, st.none() | st.tuples(st.sampled_from([CONFIG, WEIGHTS]), st.integers(0, 700), st.sampled_from(PIECES))
)
def test_any_damage_is_refused_in_one_way_or_leaves_what_is_served(flips, insertion):
    """Bytes are changed, and a piece put in: an InputError and no other, or an adapter that means what it says."""
    with tempfile.TemporaryDirectory() as place:
        check_damaged(folders.write(Path(place) / "a"), flips, insertion)


def check_damaged(folder, flips, insertion):
    for name, place, value in flips:
        data = bytearray((folder / name).read_bytes())
        data[int(place * (len(data) if value % 2 else min(len(data), 900)))] = value
        (folder / name).write_bytes(data)
    if insertion is not None:
        name, place, piece = insertion
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:place] + piece + data[place:])
    try:
        opened = adapter_folder.open_adapter(folder, folders.pocket_base())
    except InputError as error:
        str(error).encode()
    else:
        said = json.loads((folder / CONFIG).read_bytes())
        assert (opened.rank, said["r"], said["peft_type"]) == (RANK, RANK, "LORA")
        assert opened.modules == (Q_PROJ, DOWN_PROJ)
        assert 1e-3 <= said["lora_alpha"] <= 1 << 16
        assert {name: array.shape for name, array in load_file(folder / WEIGHTS).items()} == SHAPES
        assert all(np.isfinite(array).all() for array in load_file(folder / WEIGHTS).values())
