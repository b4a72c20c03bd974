"""A fit's config -> the memory that each worker needs, from the model on torch's meta device, without weights. [edge]

Activations are counted: a model of one layer and a model of two run a pack on the meta device, and the bytes that
autograd saves for the backward pass are added up. The difference between the two is what one more layer saves.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from infra.errors import InputError
from infra.figures import GIB
from train import adapter, student
from train.layers import use_fused_norms
from train.loss import LOGITS_AT_ONCE
from train.model_shapes import MODEL_SHAPES
from train.recipes import FitConfig

_MOMENTS_AND_MASTER = 3 * 4  # bytes per trainable number: two Adam moments and a float32 copy, sharded by ZeRO
_RESERVED_SHARE = 0.1  # of everything else: fragmentation of the allocator, and workspace of the libraries
_OVERHEAD_GIB = 1.5  # a CUDA context, and NCCL's buffers
_PARTS = ("weights", "trainable", "activations", "logits", "reserve", "overhead")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """What one worker needs, in bytes but for the two counts.

    num_parameters: of the base model. num_trainable: of the adapter. weights: of both. trainable: gradients and
    optimizer state of the adapter. activations: saved for the backward pass. logits: of one chunk of the loss.
    overhead: of CUDA and NCCL. adapter, checkpoint: size of the written files, on disk.
    """

    num_parameters: int
    num_trainable: int
    weights: int
    trainable: int
    activations: int
    logits: int
    overhead: int
    adapter: int
    checkpoint: int

    @property
    def reserve(self) -> int:
        """Bytes lost to fragmentation and workspaces."""
        return int((self.weights + self.trainable + self.activations + self.logits) * _RESERVED_SHARE)

    @property
    def gib(self) -> float:
        """All memory of a worker, in GiB."""
        return sum(self.parts().values()) / GIB

    def parts(self) -> dict[str, int]:
        """The memory of a worker by purpose, in bytes; the sum is all of it."""
        return {name: getattr(self, name) for name in _PARTS}

    def as_json(self) -> dict[str, Any]:
        """As a dry run prints it, in GiB. `all` is the sum of the rounded parts, so that the printed numbers add up."""
        parts = {name: round(num_bytes / GIB, 2) for name, num_bytes in self.parts().items()}
        return {
            "parameters": self.num_parameters,
            "trainable_parameters": self.num_trainable,
            "gib_per_worker": {"all": round(sum(parts.values()), 2), **parts},
        }


def describe(need: Need, config: FitConfig) -> str:
    """The need in one line, for people."""
    gib = need.as_json()["gib_per_worker"]
    parts = " + ".join(f"{name} {gib[name]:g}" for name in _PARTS)
    available = f" of {config.gpu_memory_gib:g} that its GPU has" if config.gpu_memory_gib else ""
    return f"a worker needs {gib['all']:g} GiB{available}: {parts}"


class _MetaFlashAttention(torch.autograd.Function):
    """Saves what flash attention saves: its inputs and its output, and nothing of size tokens x tokens."""

    @staticmethod
    def forward(ctx: Any, *qkv: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(qkv[0])
        ctx.save_for_backward(*qkv, output)
        return output


def _attend_on_meta(module: Any, *qkv: Any, **unused: Any) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _MetaFlashAttention.apply(*qkv[:3])
    return output.transpose(1, 2), None


class _MetaNormFunction(torch.autograd.Function):
    """Saves what torch's RMS norm saves on a GPU: its input, and one number per row."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)


class _MetaNorm(torch.nn.RMSNorm):
    """Stands in for torch's RMS norm, which on the meta device saves what it saves on a CPU."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _MetaNormFunction.apply(hidden)
        return output


_META_ATTENTION = "meta"  # without the word "flash", which Transformers would look for a package by
AttentionInterface.register(_META_ATTENTION, _attend_on_meta)


def estimate_need(config: FitConfig) -> Need:
    """What one of the recipe's workers needs. Raises InputError when the base's config is not known here."""
    model_config = read_model_config(config.base, config.revision)
    num_layers = model_config.text_config.num_hidden_layers
    whole = _meta_model(model_config, config, num_layers)
    one, two = (_saved_bytes(_meta_model(model_config, config, num), config) for num in (1, 2))
    size = torch.finfo(student.DTYPES[config.precision]).bits // 8
    num_trainable = adapter.num_trainable(whole)
    num_parameters = sum(parameter.numel() for parameter in whole.parameters())
    width, vocab_size = model_config.text_config.hidden_size, model_config.text_config.vocab_size
    per_layer = two - one
    if config.gradient_checkpointing:
        # The input of every layer, and everything of the one layer that is being computed again.
        activations = num_layers * config.tokens_per_pack * width * size + per_layer
    else:
        activations = one + (num_layers - 1) * per_layer
    optimizer = 0 if config.offload_optimizer else -(-_MOMENTS_AND_MASTER * num_trainable // config.num_workers)
    return Need(
        num_parameters=num_parameters - num_trainable,
        num_trainable=num_trainable,
        weights=num_parameters * size,
        # Gradients three times: as computed, summed in float32, and in the buffer that is reduced over the ranks.
        trainable=optimizer + num_trainable * (size + 4 + size),
        activations=activations,
        # As computed, in float32, a copy during log_softmax, and with distillation the gradient of the divergence.
        logits=min(LOGITS_AT_ONCE, config.tokens_per_pack * vocab_size)
        * (size + 4 + 4 + (4 if config.distillation_weight else 0)),
        overhead=int(_OVERHEAD_GIB * GIB) if config.gpus_per_worker else 0,
        adapter=num_trainable * size,
        checkpoint=num_trainable * _MOMENTS_AND_MASTER,
    )


def check(config: FitConfig) -> Need:
    """What one worker needs. Raises InputError when that is more than the recipe's gpu_memory_gib."""
    need = estimate_need(config)
    if config.gpu_memory_gib is not None and config.gpus_per_worker and need.gib > config.gpu_memory_gib:
        raise InputError(
            f"A worker needs about {need.gib:.1f} GiB, and the recipe's GPUs have {config.gpu_memory_gib:g} "
            f"({need.as_json()['gib_per_worker']}). Lower fit.tokens_per_pack (it is {config.tokens_per_pack}), set "
            "fit.gradient_checkpointing=true, or take a smaller base."
        )
    return need


def read_model_config(base: str, revision: str | None = None) -> Qwen3VLConfig:
    """The config of a published model, of a model folder, or of a model in the hub's cache.

    Raises InputError when there is none, or when it belongs to another kind of model.
    """
    if base in MODEL_SHAPES and not Path(base).exists():
        return Qwen3VLConfig(**MODEL_SHAPES[base])
    try:
        return student.read_config(base, revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The layer sizes of {base} are not known: neither a folder nor the hub's cache has its config.json."
        ) from error


def _meta_model(model_config: Qwen3VLConfig, config: FitConfig, num_layers: int) -> torch.nn.Module:
    """The adapted model with this number of language layers, on the meta device."""
    changed = Qwen3VLConfig(**model_config.to_dict())
    changed.text_config.num_hidden_layers = num_layers
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration._from_config(
            changed,
            dtype=student.DTYPES[config.precision],
            attn_implementation={"text_config": _META_ATTENTION, "vision_config": "sdpa"},
        )
        model.tie_weights()
        use_fused_norms(model, _MetaNorm)
        adapted = adapter.attach(
            model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, base=config.base
        )
        return adapted.to(student.DTYPES[config.precision])  # as DeepSpeed casts it


def _saved_bytes(model: torch.nn.Module, config: FitConfig) -> int:
    """Bytes that autograd saves for the backward pass of a pack, the weights not counted."""
    parameters = {id(parameter) for parameter in model.parameters()}
    saved: dict[int, torch.Tensor] = {}  # by id, which stays unique because the tensors are kept

    def save(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in parameters:
            saved[id(base)] = base
        return tensor

    num_tokens = config.tokens_per_pack
    ids_1T = torch.zeros(1, num_tokens, dtype=torch.long, device="meta")
    positions_31T = torch.zeros(3, 1, num_tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        hidden = model.get_base_model().model(input_ids=ids_1T, position_ids=positions_31T, use_cache=False)
    num_bytes = sum(int(tensor.nbytes) for tensor in saved.values())
    del hidden
    return num_bytes
