"""Tokens of a step -> the arithmetic that its model cannot do without, and the share of what the GPU could do.

Model FLOPs utilization as in PaLM (Chowdhery et al. 2022), of what is learned here: frozen weights take part in the
forward pass and pass gradients on, and have none of their own.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

_FORWARD_AND_ON = 4  # operations for each frozen weight and token: two forward, two to pass the gradient on
_LEARNED = 6  # and two more where the weight has a gradient of its own
_ATTENTION = 6  # for each pair of tokens, width and layer: 4 forward and 8 backward, of which a causal mask needs half

# Dense bfloat16 operations a second, from the makers' data sheets; the first name that a GPU's own holds is taken.
_PEAKS = {
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
class Arithmetic:
    """What a step's operations are counted from. num_frozen, num_learned: weights of the language model's layers, and
    of the adapter. head: weights that a supervised token's logits take. attention: layers times the heads' width."""

    num_frozen: int
    num_learned: int
    head: int
    attention: int

    @classmethod
    def of(cls, model: Any) -> "Arithmetic":
        """That of an adapted model."""
        base = model.get_base_model()
        text = base.config.text_config
        weights = list(base.model.language_model.layers.named_parameters())
        num_learned = sum(each.numel() for name, each in weights if "lora_" in name)
        return cls(
            num_frozen=sum(each.numel() for _, each in weights) - num_learned,
            num_learned=num_learned,
            head=text.hidden_size * text.vocab_size,
            attention=text.num_hidden_layers * text.num_attention_heads * text.head_dim,
        )

    def operations(self, lengths: Sequence[int], num_targets: int) -> float:
        """Of a batch of examples of these lengths. The vision tower is left out, since what it sees is kept; so is what
        gradient checkpointing does twice."""
        weights = _FORWARD_AND_ON * self.num_frozen + _LEARNED * self.num_learned
        num_pairs = sum(length**2 for length in lengths)
        return float(
            weights * sum(lengths) + _FORWARD_AND_ON * self.head * num_targets + _ATTENTION * self.attention * num_pairs
        )


def peak(gpu: str) -> float | None:
    """Dense bfloat16 operations a second of a GPU by the name that it gives itself; None for one that is not known."""
    return next((operations for name, operations in _PEAKS.items() if name in gpu), None)
