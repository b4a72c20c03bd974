"""A PEFT folder and its base -> an adapter that the engine serves correctly, or the reason why not.

Only a JSON file and a safetensors file are read; any file that could hold code is refused unread. What an engine would
refuse in the middle of its start, or would load and silently ignore, is refused here first.

A file that is changed between this check and the engine's own reading is not noticed here. Adapters come from sealed
artifacts: every byte is compared with the seal when the deploy begins.
"""

import dataclasses
import re
import stat
from collections.abc import Iterable
from pathlib import Path

from infra.errors import InputError
from infra.manifest import MANIFEST
from serve.adapters.base_model import Base
from serve.adapters.config import CONFIG_FILE, MAX_RANK, AdapterConfig, read_config
from serve.adapters.tensors import FLOATS, Tensor, largest_values, read_header
from serve.adapters.untrusted_json import quoted, read_json

WEIGHTS_FILE = "adapter_model.safetensors"
LOADABLE_RANKS = (8, 16, 32, 64, 128, 256, 320, MAX_RANK)
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
_PLAIN_FILES = frozenset({WEIGHTS_FILE, ".gitattributes"})
_PLAIN_SUFFIXES = frozenset({".json", ".md", ".txt", ".jinja"})  # of training logs, cards and tokenizers
_LARGEST_VALUE = 65504.0  # of float16; a fitted adapter stays a thousand times below
_MAX_MANIFEST_BYTES = 16 << 20
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterFolder:
    """A checked PEFT folder. rank: of its LoRA matrices. modules: the base's layers that it adapts, by their names."""

    path: Path
    rank: int
    modules: tuple[str, ...]


def open_adapter(folder: Path, base: Base) -> AdapterFolder:
    """Check a PEFT folder against the base that it is served on, reading its weights one tensor at a time.

    Raises InputError naming the file and what is wrong with it.
    """
    try:
        _check_files(folder)
        config = read_config(folder)
        _check_base(folder, config, base)
        weights = folder / WEIGHTS_FILE
        pairs = _pairs(weights, base)
        _check_shapes(weights, pairs, config.r, base)
        _check_targets(folder, config, set(pairs), base)
        _check_values(weights, pairs, config.scaling)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error}.") from error
    return AdapterFolder(path=folder, rank=config.r, modules=tuple(pairs))


def loadable_rank(ranks: Iterable[int]) -> int:
    """The smallest rank limit the engine knows that holds all of these; raises InputError above the largest."""
    highest = max(ranks)
    for limit in LOADABLE_RANKS:
        if highest <= limit:
            return limit
    raise InputError(f"An adapter has rank {highest}; the engine loads at most {LOADABLE_RANKS[-1]}.")


def _check_files(folder: Path) -> None:
    """Only plain files, only of kinds that hold no code, and the two that make an adapter."""
    if folder.is_symlink() or not folder.is_dir():
        raise InputError(f"{folder} is no folder. Name the folder itself that holds {CONFIG_FILE} and {WEIGHTS_FILE}.")
    for file in folder.iterdir():
        if not stat.S_ISREG(file.lstat().st_mode):
            raise InputError(
                f"{folder} holds {quoted(file.name)}, which is a folder, a link or a device. An adapter is plain "
                "files: take it away, or put the file itself there."
            )
        if file.name not in _PLAIN_FILES and file.suffix not in _PLAIN_SUFFIXES:
            raise InputError(
                f"{folder} holds {quoted(file.name)}, which is no file of an adapter. A pickled file, for one, can run "
                f"code: take it away; weights are read from {WEIGHTS_FILE}."
            )
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).exists():
            raise InputError(
                f"{folder} is no adapter: {name} is missing. A PEFT folder holds {CONFIG_FILE} and {WEIGHTS_FILE}."
            )


def _check_base(folder: Path, config: AdapterConfig, base: Base) -> None:
    """Raise InputError when config or manifest name another base. A folder's path proves nothing: folders move."""
    named = config.base_model_name_or_path or base.source
    if _HUB_ID.fullmatch(base.source) and _HUB_ID.fullmatch(named) and named != base.source:
        raise InputError(f"{folder / CONFIG_FILE} names the base {quoted(named)}, and {base.source} is served.")
    manifest = folder / MANIFEST
    if not manifest.exists():
        return
    try:
        sealed = read_json(manifest, _MAX_MANIFEST_BYTES)["made_from"]["materials"]["base"]
    except (KeyError, TypeError):
        raise InputError(f"{manifest} does not say what the adapter was fitted on. Fit it again.") from None
    if sealed != base.digest:
        raise InputError(
            f"{manifest} says that the adapter was fitted on another base than {base.source} (digest {quoted(sealed)}, "
            f"served {base.digest[:10]}). Serve it on its own base, or fit it again."
        )


def _pairs(file: Path, base: Base) -> dict[str, dict[str, Tensor]]:
    """Module name -> its matrices, "A" and "B"."""
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in read_header(file).items():
        match = _TENSOR.fullmatch(name)
        if match is None or match[1] not in base.layers:
            raise InputError(
                f"{file} holds {quoted(name)}, which belongs to no language layer of {base.source}: the engine would "
                "refuse it or leave it out in silence. Fit the adapter on the language layers of this base."
            )
        pairs.setdefault(match[1], {})[match[2]] = tensor
    if not pairs:
        raise InputError(f"{file} holds no tensors: nothing was trained into it.")
    for module, pair in pairs.items():
        if missing := {"A", "B"} - set(pair):
            raise InputError(f"{file} has no lora_{missing.pop()} for {module}. Save the adapter again.")
    return pairs


def _check_shapes(file: Path, pairs: dict[str, dict[str, Tensor]], rank: int, base: Base) -> None:
    for module, pair in pairs.items():
        num_out, num_in = base.layers[module]
        for side, shape in {"A": (rank, num_in), "B": (num_out, rank)}.items():
            tensor = pair[side]
            if tensor.shape != shape:
                raise InputError(
                    f"{file} has lora_{side} of {module} in the shape {quoted(list(tensor.shape))}; r = {rank} in "
                    f"{CONFIG_FILE} and the layers of {base.source} make it {list(shape)}. Serve it on its own base."
                )
            if tensor.dtype not in FLOATS:
                raise InputError(
                    f"{file} has lora_{side} of {module} as {quoted(tensor.dtype)}; served are {', '.join(FLOATS)}."
                )


def _check_targets(folder: Path, config: AdapterConfig, adapted: set[str], base: Base) -> None:
    """Raise InputError when PEFT, which follows the config, and the engine, which follows the tensors, would differ."""
    try:
        targeted = config.targeted(base.layers)
    except ValueError as error:
        raise InputError(f"{folder / CONFIG_FILE}: {error}. Name the modules in a list.") from None
    if unequal := adapted ^ targeted:
        first = min(unequal)
        how = "has weights and is no target" if first in adapted else "is a target and has no weights"
        raise InputError(
            f"{folder}: {first} {how} of the adapter ({len(unequal)} such layers); {CONFIG_FILE} has target_modules = "
            f"{quoted(config.target_modules)}. Save config and weights together again."
        )


def _check_values(file: Path, pairs: dict[str, dict[str, Tensor]], scaling: float) -> None:
    """Raise InputError for NaN, for values that overflow when they are scaled, and for an adapter without effect."""
    values = largest_values(file, [tensor for pair in pairs.values() for tensor in pair.values()])
    has_effect = False
    for module, pair in pairs.items():
        largest_a, largest_b = values[pair["A"].name], values[pair["B"].name]
        for side, largest in (("A", largest_a), ("B", largest_b), ("B, scaled,", largest_b * scaling)):
            if not largest <= _LARGEST_VALUE:  # also true of NaN
                raise InputError(f"{file} has {largest} in lora_{side} of {module}: its fit went wrong. Fit it again.")
        has_effect |= largest_a > 0 and largest_b > 0
    if not has_effect:
        raise InputError(f"{file} is zero in lora_A or lora_B of every layer: nothing was learned. Fit it again.")
