"""DeepSpeed ZeRO over the adapter's parameters: its config, its engine, and the learning rate. [edge]"""

import math
from typing import Any

import deepspeed
import torch

from train.recipes import FitConfig

_SHARDED_GRADIENTS = 2  # the stage of ZeRO
_MIN_BUCKET = 1 << 16  # numbers


def start(module: torch.nn.Module, config: FitConfig) -> Any:
    """A DeepSpeed engine around the module. Trains the parameters that require a gradient, with their AdamW state
    sharded over the ranks."""
    _skip_shared_memory_collectives()
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=config.learning_rate, weight_decay=0.0)
    num_trainable = sum(parameter.numel() for parameter in trainable)
    settings = deepspeed_config(config, num_ranks(), num_trainable)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    return engine


def _skip_shared_memory_collectives() -> None:
    """Mark DeepSpeed's shared-memory collectives as unavailable: on a CPU it would compile them at its first start,
    for half a minute and with a compiler that may not be installed, and use them for inference only."""
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def num_ranks() -> int:
    """Number of workers in this fit."""
    return int(torch.distributed.get_world_size())


def deepspeed_config(config: FitConfig, num_ranks: int, num_trainable: int) -> dict[str, Any]:
    """DeepSpeed's own config. gradient_accumulation_steps is 1 because the number of packs varies from batch to batch;
    the training loop marks the last pack of each batch itself."""
    # Gradients of a batch's packs are summed in float32. In stage 1, this setting would switch to another optimizer.
    exact_sums = {"data_types": {"grad_accum_dtype": "fp32"}} if config.zero_stage == _SHARDED_GRADIENTS else {}
    optimizer_on_cpu = {"offload_optimizer": {"device": "cpu"}} if config.offload_optimizer else {}
    return {
        "train_batch_size": num_ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": config.precision == "bf16"},
        **exact_sums,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            # DeepSpeed's default takes a gigabyte, which suits a model that is trained as a whole.
            "reduce_bucket_size": max(_MIN_BUCKET, num_trainable),
            **optimizer_on_cpu,
        },
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": config.num_steps + 1,
    }


def learning_rate(config: FitConfig, step: int) -> float:
    """The learning rate at a step from 1 to num_steps: linear warm-up, then a cosine to zero."""
    num_warmup = round(config.warmup_share * config.num_steps)
    if step <= num_warmup:
        return config.learning_rate * step / num_warmup
    progress = (step - num_warmup) / (config.num_steps - num_warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
