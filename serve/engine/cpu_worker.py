"""vLLM's CPU worker with the LoRA of `cpu_lora.py`: the one place that changes how vLLM computes. [edge]

`server.py` gives vLLM the worker's name, and vLLM imports it in the engine's process.
"""

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

from serve.engine import cpu_lora


class LoraByAdapter(PunicaWrapperCPU):
    """What vLLM calls to add adapters to linear layers: the tokens of each adapter are computed together."""

    def update_metadata(self, *arguments: Any, **settings: Any) -> None:
        """Called before a step with the mapping of its tokens to adapters."""
        super().update_metadata(*arguments, **settings)
        self._rows_by_slot = cpu_lora.rows_by_slot(self.token_lora_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **settings: Any,
    ) -> None:
        """Called after each adapted linear layer; changes its output y in place."""
        cpu_lora.add_adapters(y, x, lora_a_stacked, lora_b_stacked, output_slices, scale, self._rows_by_slot)


def replace_lora_of_cpu_platform() -> None:
    """Have vLLM's CPU platform name our class for LoRA: vLLM has no setting for it."""
    path = f"{LoraByAdapter.__module__}.{LoraByAdapter.__qualname__}"
    type(current_platform).get_punica_wrapper = classmethod(lambda _: path)  # type: ignore[method-assign]


class Worker(CPUWorker):
    """The worker of a CPU engine that serves adapters."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        replace_lora_of_cpu_platform()
        super().__init__(*arguments, **settings)
