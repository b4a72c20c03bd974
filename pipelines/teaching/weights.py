"""A teacher and its engine -> the GPU memory that its weights take, and what is left for what it reads and writes.

By the files of the model where they are on this machine, else by what its name says. Light: nothing is loaded.
"""

import re
from pathlib import Path
from typing import Any

from infra.figures import GIB
from infra.resources import ClusterShape
from pipelines.inference.backends.engine_config import EngineConfig

_BILLIONS = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)B(?![a-z])", re.IGNORECASE)
_QUANTIZED = re.compile(r"awq|gptq|int\d|w\d+a\d+|[\dnm](?:bit|f4|xf4)|fp4|gguf", re.IGNORECASE)
_BILLION = 10**9


def of_engine(teacher: str, engine: EngineConfig, cluster: ClusterShape | None) -> dict[str, Any]:
    """GiB of one of an engine's GPUs: the weights on it, what the engine may use of it, and what of that is left.

    A number that is not known is None; `why` says where they are from.
    """
    found = _weights(teacher)
    has = cluster.gpu_memory_gib if cluster else None
    usable = has * engine.memory_utilization if has and engine.gpus else None
    each = found[0] / GIB / (engine.gpus or 1) if found else None
    return {
        "gpus": engine.gpus,
        "weights_gib": _rounded(each),
        "usable_gib": _rounded(usable),
        "left_gib": _rounded(usable - each) if usable is not None and each is not None else None,
        "why": found[1] if found else f"no files of {teacher} are on this machine, and its name does not say its size",
    }


def told(memory: dict[str, Any]) -> str:
    """In a sentence or two, for people."""
    weights, usable, left = memory["weights_gib"], memory["usable_gib"], memory["left_gib"]
    if weights is None:
        return f"the teacher's weights are not known: {memory['why']}"
    where = {0: "in memory", 1: "on the GPU"}.get(memory["gpus"], f"on each of {memory['gpus']} GPUs")
    said = f"the teacher's weights take {weights:g} GiB {where} ({memory['why']})"
    if usable is None:
        return said
    if left <= 0:
        return f"{said}: THEY DO NOT FIT in the {usable:g} that an engine may use. Take more GPUs: teach.engine.gpus"
    return f"{said}; an engine may use {usable:g} of it, which leaves {left:g} for what it reads and writes"


def _weights(teacher: str) -> tuple[float, str] | None:
    """Bytes of a model's weights, and how they are known."""
    if folder := _folder(teacher):
        files = list(folder.glob("*.safetensors"))
        if files:
            return sum(file.stat().st_size for file in files), "measured by their files"
    name = Path(teacher).name
    if (found := _BILLIONS.search(name)) is None or _QUANTIZED.search(name):
        return None
    each = 1 if "fp8" in name.lower() else 2
    billions = float(found.group(1))
    return (
        billions * _BILLION * each,
        f"assumed: {billions:g} billion numbers, as its name says, of {each} byte{'s' * (each > 1)}",
    )


def _folder(teacher: str) -> Path | None:
    """The folder of a model on this machine, or in its hub cache."""
    if Path(teacher).is_dir():
        return Path(teacher)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(teacher, "config.json")
    except HFValidationError:  # neither a folder nor a name of the hub
        return None
    return Path(config).parent if isinstance(config, str) else None


def _rounded(gib: float | None) -> float | None:
    return None if gib is None else float(f"{gib:.3g}")
