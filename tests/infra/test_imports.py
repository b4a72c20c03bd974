"""What a fit stands on is imported without what it has no use for."""

import gc
import subprocess
import sys

import pytest

from infra.imports import pause_garbage_collection

CHECK = """
import gc
from infra.imports import pause_garbage_collection, skip_optional_imports

with skip_optional_imports(), pause_garbage_collection():
    assert not gc.isenabled()
    from train import loop
assert gc.isenabled()
import sys
assert not {"mlflow", "scipy", "sklearn"} & set(sys.modules)
import scipy
"""


@pytest.mark.slow
def test_a_worker_imports_nothing_that_it_has_no_use_for_and_finds_it_when_it_asks():
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=120)


def test_a_collector_that_was_off_stays_off():
    gc.disable()
    try:
        with pause_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
