"""Tokens of a step -> model FLOPs, and the peak FLOPs of known GPUs.

Model FLOPs utilization as in PaLM (Chowdhery et al. 2022), adapted to LoRA: frozen weights take part in the forward
pass and pass gradients back, and have no gradient of their own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

_PER_FROZEN_WEIGHT = 4  # FLOPs per token: two forward, two to pass the gradient back
_PER_TRAINABLE_WEIGHT = 6  # two more for the weight's own gradient
_PER_ATTENTION_PAIR = 6  # per pair of tokens, width and layer: 4 forward and 8 backward, half of them under the mask

# Dense bfloat16 FLOPs per second, from the makers' data sheets. The first key that is part of a GPU's name counts.
_PEAK_FLOPS = {
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FlopCounter:
    """Counts the model FLOPs of a batch.

    num_frozen, num_trainable: weights of the language model's layers, and of the adapter. head: weights of the language
    model's head. attention: number of layers times the width of all heads together.
    """

    num_frozen: int
    num_trainable: int
    head: int
    attention: int

    @classmethod
    def of(cls, model: Any) -> "FlopCounter":
        """For an adapted model."""
        base = model.get_base_model()
        text = base.config.text_config
        weights = list(base.model.language_model.layers.named_parameters())
        num_trainable = sum(each.numel() for name, each in weights if "lora_" in name)
        return cls(
            num_frozen=sum(each.numel() for _, each in weights) - num_trainable,
            num_trainable=num_trainable,
            head=text.hidden_size * text.vocab_size,
            attention=text.num_hidden_layers * text.num_attention_heads * text.head_dim,
        )

    def flops(self, lengths: Sequence[int], num_targets: int) -> float:
        """FLOPs of a batch. lengths: of its examples, in tokens. num_targets: its supervised tokens.

        The vision encoder is not counted, because its features are cached, nor are the layers that gradient
        checkpointing computes a second time.
        """
        per_token = _PER_FROZEN_WEIGHT * self.num_frozen + _PER_TRAINABLE_WEIGHT * self.num_trainable
        num_pairs = sum(length**2 for length in lengths)
        head = _PER_FROZEN_WEIGHT * self.head * num_targets
        return float(per_token * sum(lengths) + head + _PER_ATTENTION_PAIR * self.attention * num_pairs)


def peak_flops(gpu: str) -> float | None:
    """Dense bfloat16 FLOPs per second of a GPU, by the name that its driver reports; None for an unknown GPU."""
    return next((flops for name, flops in _PEAK_FLOPS.items() if name in gpu), None)
