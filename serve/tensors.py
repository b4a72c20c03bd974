"""A safetensors file -> its tensors' shapes, and one tensor's values at a time. Nothing is loaded whole.

The safetensors library says whether a file is whole: offsets, sizes, overlaps. The header is also read here, since the
library keeps the last of two tensors of one name and does not say at which bytes a tensor lies.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from infra.errors import InputError
from serve.untrusted import parse_json, quoted

MAX_HEADER_BYTES = 16 << 20  # a model of 36,000 tensors takes 5 MiB
_LENGTH_BYTES = 8
FLOATS: dict[str, "np.dtype[Any]"] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a header says of a tensor. start: the byte of the file at which its data begins. num_bytes: of data."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def read_header(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in its header's order; raises InputError when it is no whole safetensors file."""
    with file.open("rb") as stream:
        num_bytes = int.from_bytes(stream.read(_LENGTH_BYTES), "little")
        size = file.stat().st_size
        if not 0 < num_bytes <= min(size - _LENGTH_BYTES, MAX_HEADER_BYTES):
            raise InputError(
                f"{file} is no safetensors file: its header would take {num_bytes} of {size} bytes, and at most "
                f"{MAX_HEADER_BYTES} are read. Copy or save it again."
            )
        header = parse_json(file, stream.read(num_bytes))
    _check_whole(file)
    header.pop("__metadata__", None)
    data = _LENGTH_BYTES + num_bytes
    return {name: _tensor(file, name, entry, data) for name, entry in header.items()}


def _check_whole(file: Path) -> None:
    try:
        with safe_open(file, framework="numpy"):
            return
    except SafetensorError as error:
        raise InputError(f"{file} is no whole safetensors file: {quoted(str(error))}. Copy or save it again.") from None


def _tensor(file: Path, name: str, entry: Any, data: int) -> Tensor:
    """entry: as the library has found it right, except that it takes lists for objects too."""
    if not isinstance(entry, dict):
        raise InputError(f"{file} has {quoted(entry)} for {quoted(name)} in its header. Save it again.")
    start, end = entry["data_offsets"]
    return Tensor(
        name=name, dtype=entry["dtype"], shape=tuple(entry["shape"]), start=data + start, num_bytes=end - start
    )


def magnitudes(file: Path, tensors: Iterable[Tensor]) -> Iterator[float]:
    """The largest absolute value of each tensor, which is NaN where one of its values is. dtype: one of FLOATS."""
    with file.open("rb") as stream:
        for tensor in tensors:
            stream.seek(tensor.start)
            data = stream.read(tensor.num_bytes)
            if len(data) < tensor.num_bytes:
                raise InputError(f"{file} became shorter while it was read. Wait until it is written, and try again.")
            values = np.frombuffer(data, FLOATS[tensor.dtype])
            if tensor.dtype == "BF16":  # the upper half of a float32
                values = (values.astype("<u4") << 16).view("<f4")
            yield float(np.abs(values).max())
