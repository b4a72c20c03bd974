"""PEFT folders for the pocket base as bytes, valid ones, and such as no library would write."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from infra.digests import digest_material
from serve.adapters import base_model
from serve.adapters.base_model import Base

POCKET = Path(__file__).parents[3] / "train" / "pocket" / "base"
PREFIX = "base_model.model."
Q_PROJ = "model.language_model.layers.0.self_attn.q_proj"
DOWN_PROJ = "model.language_model.layers.3.mlp.down_proj"
RANK = 4
NAMES = {"float32": "F32", "float16": "F16", "uint16": "BF16", "float64": "F64", "int8": "I8"}


@functools.cache
def pocket_base() -> Base:
    return base_model.open_base(str(POCKET), digest_material(POCKET))


def config(**settings: Any) -> dict[str, Any]:
    """An adapter_config.json with the settings that the engine reads; a value of ... leaves its setting out."""
    known = {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": [Q_PROJ, DOWN_PROJ]}
    return {name: value for name, value in (known | settings).items() if value is not ...}


def tensors(*modules: str, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Matrices for layers of the kinds of Q_PROJ and DOWN_PROJ. dtype: uint16 stands for bfloat16, here of value 1."""
    random = np.random.default_rng(0)
    made = {}
    for module in modules or (Q_PROJ, DOWN_PROJ):
        num_in = 384 if module.endswith("down_proj") else 128
        for side, shape in {"A": (RANK, num_in), "B": (128, RANK)}.items():
            values = np.full(shape, 0x3F80) if dtype == "uint16" else random.normal(size=shape) / 10
            made[name_of(module, side)] = values.astype(dtype)
    return made


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, dtype="float32")


def name_of(module: str, side: str) -> str:
    return f"{PREFIX}{module}.lora_{side}.weight"


def entries(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A safetensors header."""
    header, start = {}, 0
    for name, array in arrays.items():
        end = start + array.nbytes
        header[name] = {"dtype": NAMES[str(array.dtype)], "shape": array.shape, "data_offsets": [start, end]}
        start = end
    return header


def file_bytes(header: Mapping[str, Any] | bytes, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    return len(text).to_bytes(8, "little") + text + data


def data_of(arrays: Mapping[str, np.ndarray]) -> bytes:
    return b"".join(array.tobytes() for array in arrays.values())


def weights(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A whole safetensors file."""
    return file_bytes(entries(arrays), data_of(arrays))


def write(folder: Path, settings: Any = None, data: bytes | None = None) -> Path:
    """An adapter's folder that is served, but for what is given."""
    folder.mkdir(parents=True, exist_ok=True)
    text = settings if isinstance(settings, bytes) else json.dumps(config() if settings is None else settings).encode()
    (folder / "adapter_config.json").write_bytes(text)
    (folder / "adapter_model.safetensors").write_bytes(weights(tensors()) if data is None else data)
    return folder
