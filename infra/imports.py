"""Quicker imports of what a fit or an engine stands on: importing takes most of the time that one needs to start."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Transformers, PEFT, DeepSpeed and vLLM import these where they are installed, for what no fit or engine uses.
_OPTIONAL = ("mlflow", "scipy", "sklearn")


@contextmanager
def skip_optional_imports() -> Iterator[None]:
    """Hide optional libraries from what is imported in the body, as if they were not installed; those that are imported
    already stay."""
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # Python does not find what None stands for
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Collect no garbage in the body: while large libraries are imported, the collector would look through all of their
    objects again and again, and they all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
