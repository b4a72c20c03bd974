"""A safetensors file -> its tensors' types and shapes, and the largest value of each. One tensor is held at a time.

The safetensors library reads the file, with pread: a mapped file that another process makes shorter would end this one.
"""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from infra.errors import InputError
from serve.adapters.untrusted_json import parse_json, quoted

MAX_HEADER_BYTES = 16 << 20  # a model of 36,000 tensors takes 5 MiB
_LENGTH_BYTES = 8
FLOATS = ("F32", "F16", "BF16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a file's header says of a tensor. dtype: in the format's own words, such as `F32`."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of their data.

    Raises InputError when it is not a complete safetensors file, or readers could differ on it; OSError when it cannot
    be read.
    """
    _check_header(file)
    try:
        with _open(file, "numpy") as opened:
            tensors = {name: opened.get_slice(name) for name in opened.offset_keys()}
            return {
                name: Tensor(name=name, dtype=tensor.get_dtype(), shape=tuple(tensor.get_shape()))
                for name, tensor in tensors.items()
            }
    except SafetensorError as error:
        raise _damaged(file, error) from None


def largest_values(file: Path, tensors: Collection[Tensor]) -> dict[str, float]:
    """The largest absolute value of each tensor, by name; NaN where one of its values is.

    tensors: of the file, each with a dtype of FLOATS and at least one element. Raises InputError when the file was
    changed since its header was read.
    """
    # NumPy has no bfloat16. Torch has, and takes a second to import, so it is used only where it is needed.
    framework = "pt" if any(tensor.dtype == "BF16" for tensor in tensors) else "numpy"
    try:
        with _open(file, framework) as opened:
            return {tensor.name: float(abs(opened.get_tensor(tensor.name)).max()) for tensor in tensors}
    except SafetensorError as error:
        raise _damaged(file, error) from None


def _check_header(file: Path) -> None:
    """Raise InputError for what the library takes and should not (safetensors 0.8): it reads headers of up to 100 MB,
    keeps the last of two tensors with one name, and takes a list for a tensor's entry.
    """
    with file.open("rb") as stream:
        num_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        size = file.stat().st_size
        if not 0 < num_bytes <= min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
            raise InputError(
                f"{file} is no safetensors file: its header would take {num_bytes} of {size} bytes, and at most "
                f"{MAX_HEADER_BYTES} are read. Copy or save it again."
            )
        header = parse_json(file, stream.read(num_bytes))
    for name, entry in header.items():
        if not isinstance(entry, dict):
            raise InputError(f"{file} has {quoted(entry)} for {quoted(name)} in its header. Save it again.")


def _open(file: Path, framework: str) -> Any:
    return safe_open(file, framework=framework, backend="pread")


def _damaged(file: Path, error: SafetensorError) -> InputError:
    return InputError(f"{file} is no whole safetensors file: {quoted(str(error))}. Copy or save it again.")
