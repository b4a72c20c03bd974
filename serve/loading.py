"""A local folder -> an adapter that an engine may load, or the reason why not.

Only safetensors are read: a pickled adapter would run its own code. What an engine would refuse in the middle of a
start, or load and silently ignore, is refused here first.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.errors import InputError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LOADABLE_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
_LANGUAGE_PART = ".language_model."
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_MAX_HEADER_BYTES = 100_000_000
_MAX_CONFIG_BYTES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """A checked PEFT folder. rank: of its LoRA matrices. tensors: their names, from the safetensors header."""

    path: Path
    rank: int
    tensors: tuple[str, ...]


def open_adapter(folder: Path) -> AdapterFolder:
    """Check a PEFT folder without loading its weights; raises InputError naming the file and what is wrong with it."""
    if pickled := sorted(file.name for pattern in _PICKLED for file in folder.glob(pattern)):
        raise InputError(
            f"{folder / pickled[0]} is a pickled file, which can run code: save as {WEIGHTS_FILE} instead."
        )
    rank = _rank(_own_file(folder, CONFIG_FILE))
    tensors = _tensor_names(_own_file(folder, WEIGHTS_FILE))
    if strangers := [name for name in tensors if _LANGUAGE_PART not in name]:
        raise InputError(
            f"{folder / WEIGHTS_FILE} holds {strangers[0]!r}, which lies outside the language model: the engine would "
            "ignore it in silence. Fit the adapter on Qwen3VLForConditionalGeneration's language layers."
        )
    return AdapterFolder(path=folder, rank=rank, tensors=tensors)


def loadable_rank(ranks: Iterable[int]) -> int:
    """The smallest rank limit the engine knows that holds all of these; raises InputError above the largest."""
    highest = max(ranks)
    for limit in LOADABLE_RANKS:
        if highest <= limit:
            return limit
    raise InputError(f"An adapter has rank {highest}; the engine loads at most {LOADABLE_RANKS[-1]}.")


def _own_file(folder: Path, name: str) -> Path:
    file = folder / name
    if not file.is_file():
        raise InputError(
            f"{folder} is no adapter: {name} is missing. A PEFT folder holds {CONFIG_FILE} and {WEIGHTS_FILE}."
        )
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{file} leads out of its folder, to {file.resolve()}. Put the file itself there.")
    return file


def _rank(file: Path) -> int:
    if file.stat().st_size > _MAX_CONFIG_BYTES:
        raise InputError(f"{file} has {file.stat().st_size} bytes; an adapter's config has a few thousand.")
    try:
        config = dict(json.loads(file.read_text()))
        kind, rank = config["peft_type"], config["r"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{file} is no adapter config ({error!r}).") from error
    if kind != "LORA":
        raise InputError(f"{file} describes a {kind!r} adapter; only LORA is served.")
    if not isinstance(rank, int) or rank < 1:
        raise InputError(f"{file} has r = {rank!r}; a rank is a whole number of at least 1.")
    return rank


def _tensor_names(file: Path) -> tuple[str, ...]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        header_bytes = int.from_bytes(stream.read(8), "little")
        if not 0 < header_bytes <= min(size - 8, _MAX_HEADER_BYTES):
            raise InputError(f"{file} is no safetensors file: its header would take {header_bytes} of {size} bytes.")
        header = _header(file, stream.read(header_bytes))
    names = tuple(name for name in header if name != "__metadata__")
    if not names:
        raise InputError(f"{file} holds no tensors: nothing was trained into it.")
    return names


def _header(file: Path, data: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise InputError(f"{file} is no safetensors file: its header cannot be read ({error!r}).") from error
