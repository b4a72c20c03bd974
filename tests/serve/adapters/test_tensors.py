"""Safetensors files: what is read of them, in how much memory, and what the library alone would take."""

import json
import subprocess
import sys

import pytest
from safetensors import safe_open

from infra.errors import InputError
from serve.adapters import tensors
from tests.serve.adapters.adapter_folders import POCKET, file_bytes

ONE = '{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
TAKEN_BY_THE_LIBRARY = {
    "two tensors with one name": (f'{{"a": {ONE}, "a": {ONE}}}', "'a' comes twice"),
    "a list for an entry": ('{"a": ["F32", [1], [0, 4]]}', "has ['F32', [1], [0, 4]] for 'a'"),
    "a header of 90 MB": (f'{{"a": {ONE}}}' + " " * 90_000_000, "would take 90000"),
}


@pytest.mark.parametrize(("header", "reason"), TAKEN_BY_THE_LIBRARY.values(), ids=TAKEN_BY_THE_LIBRARY)
def test_what_the_library_takes_and_should_not_is_refused(tmp_path, header, reason):
    """When the library refuses one of these by itself, our look at the header has one reason less."""
    file = tmp_path / "a.safetensors"
    file.write_bytes(file_bytes(header.encode(), bytes(4)))
    with safe_open(file, framework="numpy") as opened:
        assert opened.keys() == ["a"]
    with pytest.raises(InputError) as refused:
        tensors.read_header(file)
    assert reason in str(refused.value)


def test_a_file_that_becomes_shorter_while_it_is_read_is_one_clear_error(tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(file_bytes(f'{{"a": {ONE}}}'.encode(), bytes(4)))
    read = tensors.read_header(file)
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"a\.safetensors is no whole safetensors file"):
        tensors.largest_values(file, read.values())


def sparse_file(file, **sizes):
    """Float tensors of these many bytes, all zero and on no disk."""
    header, start = {}, 0
    for name, size in sizes.items():
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header).encode()
    with file.open("wb") as stream:
        stream.write(file_bytes(text, b""))
        stream.truncate(8 + len(text) + start)


def test_no_more_than_one_tensor_is_in_memory(tmp_path):
    """8 GiB behind a header cost nothing, and 32 tensors of 8 MiB as much as two: a tensor and its absolute values."""
    sparse_file(tmp_path / "huge", a=8 << 30, b=1024)
    sparse_file(tmp_path / "many", **{f"t{number}": 8 << 20 for number in range(32)})
    code = """if True:
        import resource, sys
        from pathlib import Path
        from serve.adapters import tensors
        huge, many = Path(sys.argv[1], "huge"), Path(sys.argv[1], "many")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        header = tensors.read_header(huge)
        assert header["a"].shape == (1 << 31,)
        assert tensors.largest_values(huge, [header["b"]]) == {"b": 0.0}
        assert len(tensors.largest_values(many, tensors.read_header(many).values())) == 32
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path], cwd=POCKET.parents[2], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 48 << 10  # KiB
