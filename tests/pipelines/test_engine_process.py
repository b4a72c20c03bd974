"""The process that an engine's core is started in, with what it arrives with in vLLM's place."""

import gc
import multiprocessing
import sys

from pipelines import engine_process


class Imports:
    """Unpickling it is to find out how imports stand at that moment."""

    def __reduce__(self):
        return how_imports_stand, ()


def how_imports_stand():
    return {"searches_for_garbage": gc.isenabled(), "hides_scipy": sys.modules.get("scipy", ...) is None}


def tell(on_arrival, answers):
    from vllm.v1.engine import core

    at_start = how_imports_stand()
    core.freeze_gc_heap()  # as vLLM does when an engine is up
    answers.put((on_arrival, at_start, how_imports_stand()))


def test_a_core_arrives_and_starts_with_thrift_and_works_without():
    context = engine_process._ThriftyContext()
    answers = context.Queue()
    process = context.Process(target=tell, args=(Imports(), answers), daemon=True)
    process.start()

    on_arrival, at_start, at_work = answers.get(timeout=120)
    process.join(60)

    assert process.exitcode == 0
    assert on_arrival == at_start == {"searches_for_garbage": False, "hides_scipy": True}
    assert at_work == {"searches_for_garbage": True, "hides_scipy": False}


def test_only_spawned_cores_do_and_only_those_started_inside(monkeypatch):
    from vllm.v1.engine import utils

    usual = utils.get_mp_context
    for method, kind in (("spawn", engine_process._ThriftyContext), ("fork", multiprocessing.context.ForkContext)):
        monkeypatch.setattr(utils, "get_mp_context", lambda method=method: multiprocessing.get_context(method))
        with engine_process.started_with_thrift():
            assert type(utils.get_mp_context()) is kind
        assert type(utils.get_mp_context()) is not engine_process._ThriftyContext
    monkeypatch.setattr(utils, "get_mp_context", usual)
    assert gc.isenabled()
