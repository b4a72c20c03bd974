"""The process of an engine's core: what it arrives with in vLLM's place, and that it never outlives what started it."""

import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipelines.inference.backends import engine_process

pytestmark = pytest.mark.engine

STARTS_AND_DIES = """
import os, signal, sys
from pipelines.inference.backends.engine_process import core_started_early

with core_started_early():
    {dies}
"""


def how_imports_stand():
    return {"searches_for_garbage": gc.isenabled(), "hides_scipy": sys.modules.get("scipy", ...) is None}


def tell(place):
    from vllm.utils.system_utils import set_process_title
    from vllm.v1.engine import core

    at_start = how_imports_stand()
    core.freeze_gc_heap()  # as vLLM does when an engine is up
    set_process_title("Core")
    named = multiprocessing.current_process().name, " ".join(psutil.Process().cmdline()).strip()
    told = [at_start, how_imports_stand(), named, os.environ["SET_SINCE"], "GONE_SINCE" in os.environ]
    place.write_text(json.dumps(told))


def core_of(place, name="EngineCore"):
    from vllm.v1.engine import utils

    return utils.get_mp_context().Process(target=tell, name=name, kwargs={"place": place})


def wait_until(is_so):
    deadline = time.monotonic() + 100
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def _spawning(monkeypatch):
    from vllm.v1.engine import utils

    monkeypatch.setattr(utils, "get_mp_context", lambda: multiprocessing.get_context("spawn"))


@pytest.mark.slow
@pytest.mark.usefixtures("_spawning")
def test_a_core_has_imported_quickly_before_it_is_given_its_work_and_works_as_usual(monkeypatch, tmp_path):
    monkeypatch.setenv("GONE_SINCE", "yes")
    with engine_process.core_started_early():
        (waiting,) = multiprocessing.active_children()
        core = core_of(tmp_path / "told")
        assert core is waiting
        monkeypatch.setenv("SET_SINCE", "yes")
        monkeypatch.delenv("GONE_SINCE")
        monkeypatch.delenv(next(iter(os.environ)))  # setproctitle looks for the title in front of the first variable
        wait_until(lambda: "libtorch_cpu" in Path(f"/proc/{core.pid}/maps").read_text())  # imported without being told
        core.start()
    core.join(120)
    assert core.exitcode == 0
    at_start, at_work, named, since, is_there = json.loads((tmp_path / "told").read_text())
    assert at_start == {"searches_for_garbage": False, "hides_scipy": True}
    assert at_work == {"searches_for_garbage": True, "hides_scipy": False}
    assert named == ["EngineCore", "VLLM::Core"]
    assert (since, is_there) == ("yes", False)
    assert gc.isenabled()


@pytest.mark.usefixtures("_spawning")
def test_a_second_core_and_one_that_is_to_load_something_first_are_new_processes(monkeypatch, tmp_path):
    with engine_process.core_started_early():
        (waiting,) = multiprocessing.active_children()
        with monkeypatch.context() as patch:
            patch.setenv("LD_PRELOAD", "/other/libgomp.so")
            assert core_of(tmp_path) is not waiting
        assert core_of(tmp_path) is waiting
        assert core_of(tmp_path, name="EngineCore_DP1") is not waiting
    assert not waiting.is_alive()


def test_only_where_vllm_would_spawn_its_core_it_is_given_one(monkeypatch):
    from vllm.v1.engine import utils

    monkeypatch.setattr(utils, "get_mp_context", lambda: multiprocessing.get_context("fork"))
    with engine_process.core_started_early():
        assert utils.get_mp_context() is multiprocessing.get_context("fork")


@pytest.mark.parametrize(
    "dies", ["os.kill(os.getpid(), signal.SIGKILL)", "raise ValueError('no such model')", "sys.exit(3)"]
)
def test_a_core_that_gets_no_work_ends_with_what_started_it(dies):
    project = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": str(project), "OF_THIS_TEST": str(time.monotonic_ns())}
    code = STARTS_AND_DIES.format(dies=dies)
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=120, check=False)
    assert ended.returncode in (-signal.SIGKILL, 1, 3)
    wait_until(lambda: not any(_is_of(each, environment["OF_THIS_TEST"]) for each in psutil.process_iter()))


def _is_of(process, mark):
    try:
        return process.environ().get("OF_THIS_TEST") == mark
    except psutil.Error:
        return False
