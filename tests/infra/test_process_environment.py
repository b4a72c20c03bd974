"""Proxies and folders for temporary files of the user's, as every process of ours finds them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra import process_environment

PROJECT = Path(__file__).parents[2]
TOLD = """
import infra.stage, json, os, sys, tempfile
from multiprocessing import connection, util
listener = connection.Listener(family="AF_UNIX")  # as forkservers, managers and vLLM have them
with tempfile.NamedTemporaryFile() as file:
    where = os.path.realpath(file.name)
print(json.dumps([os.environ.get("TMPDIR"), listener.address, where, os.environ["no_proxy"], os.environ["NO_PROXY"]]))
sys.stdout.flush()
sys.stdin.read()
"""


def told(**environment: str) -> list[str]:
    """What a process of ours has in such an environment."""
    kept = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        cwd=PROJECT,
        env=kept | environment,
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return json.loads(done.stdout)


def links() -> set[Path]:
    return set(Path(process_environment._SHORT).glob(f"{process_environment._PREFIX}*"))


def test_a_folder_for_temporary_files_whose_name_is_too_long_is_used_by_a_short_one(tmp_path):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    before = links()
    named, listener, where, *_ = told(TMPDIR=str(long))
    assert len(named) < 40
    assert len(listener) < 107
    assert Path(where).parent == long  # the files stay on the user's disk
    assert links() <= before  # nothing is left


def test_a_short_one_stays_what_it_is(tmp_path):
    short = Path(os.path.relpath(tmp_path, "/"))
    named, *_ = told(TMPDIR=f"/{str(short)[:40]}")
    assert named == f"/{str(short)[:40]}"
    assert told(TMPDIR="")[0] == ""


def test_what_a_killed_process_left_is_removed_by_the_next_one(tmp_path):
    long = tmp_path / ("long" * 30)
    long.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", TOLD],
        cwd=PROJECT,
        env=os.environ | {"TMPDIR": str(long)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        left = Path(json.loads(process.stdout.readline())[0]).parent
        os.utime(left, (0, 0))
        told(TMPDIR=str(long))
        assert left.exists()  # it lives
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 30
    while left.exists() and time.monotonic() < deadline:
        os.utime(left, (0, 0))
        told(TMPDIR=str(long))
    assert not left.exists()
    assert long.exists()


@pytest.mark.parametrize(
    ("excepted", "expected"),
    [
        ({}, ["127.0.0.1", "localhost", "::1"]),
        ({"NO_PROXY": "a.example,127.0.0.1"}, ["a.example", "127.0.0.1", "localhost", "::1"]),
        ({"no_proxy": "b.example"}, ["b.example", "127.0.0.1", "localhost", "::1"]),
        ({"no_proxy": "", "NO_PROXY": "a.example"}, ["a.example", "127.0.0.1", "localhost", "::1"]),
        ({"no_proxy": "*"}, ["*"]),
    ],
)
def test_this_machine_is_asked_without_a_proxy_and_what_the_user_excepts_stays_excepted(excepted, expected):
    *_, lower, upper = told(HTTP_PROXY="http://proxy.example:3128", **excepted)
    assert lower == upper
    assert lower.split(",")[: len(expected)] == expected
