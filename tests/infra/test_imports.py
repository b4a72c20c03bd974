"""What a fit stands on is imported without what it has no use for."""

import subprocess
import sys

import pytest

CHECK = """
import gc
from infra.imports import thrift

with thrift():
    from train import loop
assert gc.isenabled()
import sys
assert not {"mlflow", "scipy", "sklearn"} & set(sys.modules)
import scipy
"""


@pytest.mark.slow
def test_a_worker_imports_nothing_that_it_has_no_use_for_and_finds_it_when_it_asks():
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=120)
