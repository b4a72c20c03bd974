"""DeepSpeed ZeRO-2 over the adapter's parameters: its config, its start, and the learning rate. [edge]"""

import math
from typing import Any

import deepspeed
import torch

from train.recipes import FitConfig

_SHARDED_GRADIENTS = 2  # the stage of ZeRO
_LEAST_BUCKET = 1 << 16  # numbers

# On a CPU, DeepSpeed would compile collectives over shared memory at its first start, for half a minute and with a
# compiler that the machine may not have, and then use them in inference only.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def start(module: torch.nn.Module, config: FitConfig) -> Any:
    """A DeepSpeed engine around the module; what requires a gradient learns, and its optimizer state is sharded."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=0.0)
    num_learning = sum(parameter.numel() for parameter in learning)
    told = deepspeed_config(config, num_ranks(), num_learning)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=told)
    return engine


def num_ranks() -> int:
    """How many workers fit together."""
    return int(torch.distributed.get_world_size())


def deepspeed_config(config: FitConfig, num_ranks: int, num_learning: int) -> dict[str, Any]:
    """What DeepSpeed is told. How many packs make an update varies, and is told it update by update."""
    # The packs of an update add up in float32; in stage 1, DeepSpeed would take that for another kind of optimizer.
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
            "reduce_bucket_size": max(
                _LEAST_BUCKET, num_learning
            ),  # by default a gigabyte, for models that learn whole
            **optimizer_on_cpu,
        },
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": config.num_steps + 1,
    }


def learning_rate(config: FitConfig, step: int) -> float:
    """The rate of step 1 to num_steps: a linear rise over the warm-up's share, then a cosine to zero."""
    num_warmup = round(config.warmup_share * config.num_steps)
    if step <= num_warmup:
        return config.learning_rate * step / num_warmup
    done = (step - num_warmup) / (config.num_steps - num_warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
