"""Settings -> what a fit will hold in memory: its model is laid out on torch's meta device, with nothing in it. [edge]

Activations are not guessed: what autograd would keep of a pack is counted while two models of one and two layers run
on that device, and what the second keeps beyond the first is what each layer keeps.
"""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AttentionInterface, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from infra.errors import InputError
from train import adapter, student
from train.loss import LOGITS_AT_ONCE
from train.recipes import FitConfig
from train.shapes import SHAPES

_GIB = 1 << 30
_MOMENTS_AND_MASTER = 3 * 4  # bytes a learning number: two moments and a master copy in float32, sharded by ZeRO
_RESERVED_SHARE = 0.1  # of everything: fragments of the allocator, and what libraries take for themselves
_OVERHEAD_GIB = 1.5  # a CUDA context, and NCCL's buffers
_PARTS = ("weights", "learning", "activations", "logits", "reserve", "overhead")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes of one worker. num_parameters: of the whole model; num_trainable: of the adapter; adapter, checkpoint: of
    the files that are written."""

    num_parameters: int
    num_trainable: int
    weights: int
    learning: int
    activations: int
    logits: int
    overhead: int
    adapter: int
    checkpoint: int

    @property
    def reserve(self) -> int:
        """What an allocator loses between all of it."""
        return int((self.weights + self.learning + self.activations + self.logits) * _RESERVED_SHARE)

    @property
    def gib(self) -> float:
        """All that a worker holds."""
        return sum(self.parts().values()) / _GIB

    def parts(self) -> dict[str, int]:
        """What a worker holds, in bytes: all of it, so that it can be added up."""
        return {name: getattr(self, name) for name in _PARTS}

    def as_json(self) -> dict[str, Any]:
        """As a dry run tells it: the parts add up to `all`, to the digits that are shown."""
        parts = {name: round(held / _GIB, 2) for name, held in self.parts().items()}
        return {
            "parameters": self.num_parameters,
            "trainable_parameters": self.num_trainable,
            "gib_per_worker": {"all": round(sum(parts.values()), 2), **parts},
        }


def told(need: Need, config: FitConfig) -> str:
    """In a sentence, for people."""
    held = need.as_json()["gib_per_worker"]
    parts = " + ".join(f"{name} {held[name]:g}" for name in _PARTS)
    of = f" of {config.gpu_memory_gib:g} that its GPU has" if config.gpu_memory_gib else ""
    return f"a worker holds {held['all']:g} GiB{of}: {parts}"


class _Flash(torch.autograd.Function):
    """What a flash attention keeps: its arguments and its output, and nothing of the size of tokens times tokens."""

    @staticmethod
    def forward(ctx: Any, *qkv: torch.Tensor) -> torch.Tensor:
        output = torch.empty_like(qkv[0])
        ctx.save_for_backward(*qkv, output)
        return output


def _attend_on_paper(module: Any, *qkv: Any, **unused: Any) -> tuple[torch.Tensor, None]:
    output: torch.Tensor = _Flash.apply(*qkv[:3])
    return output.transpose(1, 2), None


class _Norm(torch.autograd.Function):
    """What a GPU's RMS norm keeps: its input, and one number of each row."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(hidden, hidden.new_empty(hidden.shape[:-1], dtype=torch.float32))
        return torch.empty_like(hidden)


class _NormOnPaper(torch.nn.RMSNorm):
    """On the meta device, torch's own would keep what it keeps on a CPU."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = _Norm.apply(hidden)
        return output


_ON_PAPER = "on paper"
AttentionInterface.register(_ON_PAPER, _attend_on_paper)


def need(config: FitConfig) -> Need:
    """What one of the recipe's workers will hold. Raises InputError when the base's shape is not known here."""
    shape = read_shape(config.base, config.revision)
    whole = _laid_out(shape, config, shape.text_config.num_hidden_layers)
    one, two = (_kept(_laid_out(shape, config, num), config) for num in (1, 2))
    num_layers = shape.text_config.num_hidden_layers
    size = torch.finfo(student.DTYPES[config.precision]).bits // 8
    num_trainable = adapter.num_trainable(whole)
    num_parameters = sum(parameter.numel() for parameter in whole.parameters())
    width, head = shape.text_config.hidden_size, shape.text_config.vocab_size
    per_layer = two - one
    if config.gradient_checkpointing:
        # Of each layer its input, and of the one that is computed again everything.
        activations = num_layers * config.tokens_per_pack * width * size + per_layer
    else:
        activations = one + (num_layers - 1) * per_layer
    optimizer = 0 if config.offload_optimizer else -(-_MOMENTS_AND_MASTER * num_trainable // config.num_workers)
    return Need(
        num_parameters=num_parameters - num_trainable,
        num_trainable=num_trainable,
        weights=num_parameters * size,
        # Gradients as they are made, as they add up in float32, and in the buffer in which they meet those of others.
        learning=optimizer + num_trainable * (size + 4 + size),
        activations=activations,
        # As they are made, in float32, once more while they are summed up, and what a teacher did not tell of them.
        logits=min(LOGITS_AT_ONCE, config.tokens_per_pack * head)
        * (size + 4 + 4 + (4 if config.distillation_weight else 0)),
        overhead=int(_OVERHEAD_GIB * _GIB) if config.gpus_per_worker else 0,
        adapter=num_trainable * size,
        checkpoint=num_trainable * _MOMENTS_AND_MASTER,
    )


def check(config: FitConfig) -> Need:
    """What one worker will hold. Raises InputError when a recipe says how large its GPUs are, and that is more."""
    asked = need(config)
    if config.gpu_memory_gib is not None and config.gpus_per_worker and asked.gib > config.gpu_memory_gib:
        raise InputError(
            f"A worker needs about {asked.gib:.1f} GiB, and the recipe's GPUs have {config.gpu_memory_gib:g} "
            f"({asked.as_json()['gib_per_worker']}). Lower fit.tokens_per_pack (it is {config.tokens_per_pack}), set "
            "fit.gradient_checkpointing=true, or take a smaller base."
        )
    return asked


def read_shape(base: str, revision: str | None = None) -> Qwen3VLConfig:
    """The config of a model folder or of the hub's cache, or the shape that is known by its name."""
    if base in SHAPES and not Path(base).exists():
        return Qwen3VLConfig(**SHAPES[base])
    try:
        return student.read_config(base, revision)
    except (OSError, ValueError) as error:
        raise InputError(
            f"The shape of {base} is not known: neither a folder nor the hub's cache has its config.json."
        ) from error


def _laid_out(shape: Qwen3VLConfig, config: FitConfig, num_layers: int) -> torch.nn.Module:
    """The adapted model with so many language layers, on the meta device."""
    fewer = Qwen3VLConfig(**shape.to_dict())
    fewer.text_config.num_hidden_layers = num_layers
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration._from_config(
            fewer,
            dtype=student.DTYPES[config.precision],
            attn_implementation={"text_config": _ON_PAPER, "vision_config": "sdpa"},
        )
        model.tie_weights()
        student.fuse_norms(model, _NormOnPaper)
        adapted = adapter.attach(
            model, rank=config.lora_rank, alpha=config.lora_alpha, seed=config.seed, base=config.base
        )
        return adapted.to(student.DTYPES[config.precision])  # as DeepSpeed has it


def _kept(model: torch.nn.Module, config: FitConfig) -> int:
    """Bytes that autograd keeps of a pack, weights aside."""
    own = {id(parameter) for parameter in model.parameters()}
    seen: dict[int, torch.Tensor] = {}  # by identity, which holds as long as the tensor does

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        base = tensor._base if tensor._base is not None else tensor
        if id(base) not in own:
            seen[id(base)] = base
        return tensor

    num_tokens = config.tokens_per_pack
    ids_1T = torch.zeros(1, num_tokens, dtype=torch.long, device="meta")
    positions_31T = torch.zeros(3, 1, num_tokens, dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        hidden = model.get_base_model().model(input_ids=ids_1T, position_ids=positions_31T, use_cache=False)
    num_bytes = sum(int(tensor.nbytes) for tensor in seen.values())
    del hidden
    return num_bytes
