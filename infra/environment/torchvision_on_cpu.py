"""Makes torchvision's CUDA build importable beside a CPU build of torch.

Some package registries carry torchvision only as a CUDA build, whose compiled operators do not load beside CPU torch;
then
`import torchvision` stops at operators that were never declared. Its pure-PyTorch transforms, all that the image
processors need, work once the two missing schemas are declared. A `.pth` file runs `install` at interpreter start, in
every Ray worker and engine process alike; nothing is imported until torchvision is.
"""

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class _DeclareOperatorsFirst(importlib.abc.MetaPathFinder):
    """Steps in when torchvision is first looked up, declares the operators, and leaves the import to the next
    finder."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is None:
        # The library object must outlive the import: its end would take the declarations back.
        install.library = torch.library.Library("torchvision", "DEF")  # type: ignore[attr-defined]
        for schema in _SCHEMAS:
            install.library.define(schema)  # type: ignore[attr-defined]


def install() -> None:
    """Register the import hook once; called from the `.pth` file, which a virtual environment reads twice."""
    if not any(isinstance(finder, _DeclareOperatorsFirst) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DeclareOperatorsFirst())
