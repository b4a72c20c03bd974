"""A base model -> the layers that an adapter may change, and their shapes, from the headers of its weights alone."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from infra.digests import digest_material
from infra.errors import InputError
from serve.adapters.tensors import read_header
from serve.adapters.untrusted_json import quoted, read_json

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_MAX_INDEX_BYTES = 64 << 20
# The language model's linear layers: what the engine adapts. `train.adapter` attaches to the same.
LANGUAGE_LINEARS = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)"
_WEIGHT = re.compile(rf"({LANGUAGE_LINEARS})\.weight")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """A base model without its weights.

    source: its folder or hub id. digest: as the manifests of its adapters say it. layers: module name ->
    (output, input) features of each layer that can be adapted.
    """

    source: str
    digest: str
    layers: Mapping[str, tuple[int, int]]


def open_base(source: str, digest: str, revision: str | None = None) -> Base:
    """The base that adapters were fitted on; its weights are not read.

    digest: of the folder when the adapters were fitted. revision: of a hub's model. Raises InputError when the base is
    not on this machine, was changed since then, or has no language layers that an engine can adapt.
    """
    folder = Path(source)
    try:
        layers = _read_layers(_unchanged(folder, digest) if folder.is_dir() else _cached(source, revision))
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error}.") from error
    if not layers:
        raise InputError(
            f"{source} has no layer such as model.language_model.layers.0.self_attn.q_proj.weight: adapters are served "
            "on Qwen3VLForConditionalGeneration."
        )
    return Base(source=source, digest=digest, layers=layers)


def _unchanged(folder: Path, digest: str) -> Path:
    """The folder; raises InputError when its content is not what the adapters were fitted on."""
    if (now := digest_material(folder)) != digest:
        raise InputError(
            f"{folder} was changed after the adapters were fitted on it (digest {now[:10]}, then {digest[:10]}). "
            "Fit them again, or put the former base back."
        )
    return folder


def _cached(source: str, revision: str | None) -> Path:
    """The folder of the local hub cache that holds a hub's model, as transformers would find it."""
    try:
        return Path(snapshot_download(source, revision=revision, local_files_only=True))
    except (OSError, HFValidationError):
        words = f"{source} --revision {revision}" if revision else source
        raise InputError(
            f"{source} is neither a folder nor in this machine's hub cache, so adapters cannot be compared with it. "
            f"Fetch it (hf download {words}), or name a folder: --set fit.base=FOLDER"
        ) from None


def _read_layers(folder: Path) -> dict[str, tuple[int, int]]:
    layers = {}
    for file in _weight_files(folder):
        if not file.is_file():
            raise InputError(f"{folder} is no whole model: {file.name} is missing. Copy or save the base again.")
        for name, tensor in read_header(file).items():
            if (match := _WEIGHT.fullmatch(name)) and len(tensor.shape) == 2:  # noqa: PLR2004
                layers[match[1]] = (tensor.shape[0], tensor.shape[1])
    return layers


def _weight_files(folder: Path) -> list[Path]:
    """Its files of weights, one or as many as its index names; raises InputError for a name that leads elsewhere."""
    index = folder / _INDEX
    if not index.is_file():
        return [folder / _WEIGHTS]
    shards = read_json(index, _MAX_INDEX_BYTES).get("weight_map")
    names: list[Any] = list(shards.values()) if isinstance(shards, dict) else [shards]
    if outside := [name for name in names if not isinstance(name, str) or PurePath(name).name != name]:
        raise InputError(f"{index} names {quoted(outside[0])} for weights, which is no file beside it.")
    return [folder / name for name in sorted(set(names))]
