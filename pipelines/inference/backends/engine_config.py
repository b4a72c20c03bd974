"""How a vLLM engine is run: the one set of settings that teaching and serving share. Light: vLLM is not imported."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NoReturn, Self

from annotated_types import Ge, Gt, Le

from infra.errors import InputError
from infra.resources import Workers


def needs_own_code(error: BaseException) -> bool:
    """Whether transformers or vLLM did not load a model because that would have run code which comes with it."""
    return "trust_remote_code" in str(error)


def own_code_is_refused(model: str) -> InputError:
    """The error for such a model."""
    return InputError(f"{model} can only be loaded by code that it brings along, and that is never run. Name another.")


def keep_in_one_process(vllm_config: Any) -> None:
    """Let a CPU engine hold its model itself: a worker process of its own would import everything once more.

    Changed in vLLM's finished config. The variable that also does it (VLLM_ENABLE_V1_MULTIPROCESSING=0) leaves the
    engine at little more than half the speed.
    """
    if vllm_config.device_config.device_type == "cpu":
        vllm_config.parallel_config.distributed_executor_backend = "uni"


def refused_by_vllm(arguments: Mapping[str, Any], model: Path) -> str | None:
    """Why vLLM's own parser of arguments does not take these, in its words; None when it does.

    model: a model folder that is here, in the place of the one that is named: vLLM would look for it on the hub.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    class Parser(FlexibleArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ValueError(message)

    try:
        parsed = AsyncEngineArgs.add_cli_args(Parser()).parse_args(_as_words(arguments))
        parsed.model, parsed.revision = str(model), None
        AsyncEngineArgs.from_cli_args(parsed)
    except (ValueError, TypeError) as error:
        return str(error).strip().splitlines()[0]
    return None


def _as_words(arguments: Mapping[str, Any]) -> list[str]:
    """Arguments as one writes them on a command line."""
    words = []
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, list):
            words += [option, *map(str, value)]
        elif value is not None:
            words += [option, json.dumps(value) if isinstance(value, dict) else str(value)]
    return words


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One vLLM engine and the resources of each of its replicas.

    gpus: 0 runs on the CPU; more than one splits the model by tensor parallelism. cpus: also the engine's OpenMP
    threads when it runs on the CPU. max_model_len: tokens of a request and its answer; None takes all that the model
    was made for. max_num_seqs: answers that are written at the same time. kv_cache_gib: CPU memory for attention keys
    and values; None takes memory_utilization of the machine instead, as a GPU does.
    """

    replicas: Annotated[int, Gt(0)] = 1
    cpus: Annotated[int, Gt(0)] = 1
    gpus: Annotated[int, Ge(0)] = 0
    max_model_len: Annotated[int, Gt(0)] | None = None
    max_num_seqs: Annotated[int, Gt(0)] = 256
    dtype: str = "auto"
    enforce_eager: bool = False
    chunked_prefill: bool = True
    kv_cache_gib: Annotated[float, Gt(0)] | None = None
    memory_utilization: Annotated[float, Gt(0), Le(1)] = 0.9
    images_per_request: Annotated[int, Gt(0)] = 1
    prefix_caching: bool = True
    mm_encoder_tp_mode: str = "weights"

    def taking(self, num_images: int) -> Self:
        """The same engine, for requests of up to so many images.

        An engine refuses a request with more images than it was started for, and on a GPU it sets memory aside for as
        many. So the number is not simply set high, but raised to what the questions at hand need.
        """
        return replace(self, images_per_request=max(self.images_per_request, num_images))

    def on_cpu(self) -> Self:
        """One replica of the same engine for a small model on a CPU."""
        return replace(
            self,
            replicas=1,
            cpus=1,
            gpus=0,
            max_num_seqs=min(self.max_num_seqs, 32),
            dtype="auto",
            enforce_eager=True,
            kv_cache_gib=0.5,
        )

    def workers(self, what: str) -> Workers:
        """What its replicas ask the cluster for."""
        return Workers(what=what, count=self.replicas, cpus=self.cpus, gpus=self.gpus)

    def answer_settings(self) -> dict[str, Any]:
        """The settings that change an answer by more than how sums are rounded."""
        return {"dtype": self.dtype, "max_model_len": self.max_model_len}

    def arguments(self) -> dict[str, Any]:
        """Arguments of vLLM's engine."""
        arguments: dict[str, Any] = {
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            "enable_chunked_prefill": self.chunked_prefill,
            "enable_prefix_caching": self.prefix_caching,
            "gpu_memory_utilization": self.memory_utilization,
            "limit_mm_per_prompt": {"image": self.images_per_request, "video": 0},
            "disable_log_stats": True,
        }
        if self.gpus:
            return arguments | {"tensor_parallel_size": self.gpus, "mm_encoder_tp_mode": self.mm_encoder_tp_mode}
        if self.kv_cache_gib is not None:
            arguments["kv_cache_memory_bytes"] = int(self.kv_cache_gib * (1 << 30))
        # Profiling a model's largest image is to size the cache, whose size is given on the CPU.
        return arguments | {"skip_mm_profiling": True}

    def environment(self) -> dict[str, str]:
        """Environment of the engine's process: on the CPU, vLLM is steered by variables."""
        if self.gpus:
            return {}
        return {
            # Unbound threads: bound ones pin the engine to core 0 and leave the rest of a small machine idle.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(self.cpus),
            # An eager engine would still compile a small function at its first request, which waits seconds for it.
            "TORCHDYNAMO_DISABLE": str(int(self.enforce_eager)),
        }
