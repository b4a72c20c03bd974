"""Importing what a fit or an engine stands on, which is most of the time that it takes to start."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Transformers, PEFT, DeepSpeed and vLLM import these where they find them, for what no fit or engine has a use for.
_UNWANTED = ("mlflow", "scipy", "sklearn")


@contextmanager
def thrift() -> Iterator[None]:
    """What is imported in here finds none of the unwanted, as if they were not installed, and afterwards they are.

    Python's search for garbage waits: it would look through all that was imported again and again, and all of it stays.
    """
    hidden = [name for name in _UNWANTED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # what None stands for is not found
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for name in hidden:
            del sys.modules[name]
