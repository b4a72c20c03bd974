"""Causal attention within each example of a pack, as an attention of Transformers by the name of `packed`. [edge]

Shapes: H heads, G groups of keys and values, T tokens of the pack, D width of a head.
"""

from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface

NAME = "packed"


def attend(
    module: torch.nn.Module,
    query_1HTD: torch.Tensor,
    key_1GTD: torch.Tensor,
    value_1GTD: torch.Tensor,
    attention_mask: None,
    *,
    lengths: tuple[int, ...],
    scaling: float,
    **unused: Any,
) -> tuple[torch.Tensor, None]:
    """Each token attends to itself and to those before it in its own example. Returns output_1THD and no weights.

    lengths: of the examples, in their order; they add up to T.
    """
    attend_to = _by_flash if query_1HTD.is_cuda and query_1HTD.dtype != torch.float32 else _one_by_one
    return attend_to(query_1HTD, key_1GTD, value_1GTD, lengths, scaling), None


def _by_flash(
    query_1HTD: torch.Tensor, key_1GTD: torch.Tensor, value_1GTD: torch.Tensor, lengths: tuple[int, ...], scaling: float
) -> torch.Tensor:
    """All examples in one kernel, which torch has for CUDA in half precision."""
    from torch.nn.attention.varlen import varlen_attn

    borders = _borders(lengths, query_1HTD.device)
    query_THD, key_TGD, value_TGD = (each[0].transpose(0, 1) for each in (query_1HTD, key_1GTD, value_1GTD))
    longest = max(lengths)
    output_THD = varlen_attn(
        query_THD,
        key_TGD,
        value_TGD,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=True,
    )
    return output_THD[None]


@lru_cache(maxsize=1)
def _borders(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Where examples begin and end. Kept from layer to layer: a copy from the host makes the GPU's queue run dry."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _one_by_one(
    query_1HTD: torch.Tensor, key_1GTD: torch.Tensor, value_1GTD: torch.Tensor, lengths: tuple[int, ...], scaling: float
) -> torch.Tensor:
    """Example after example, each without a mask of its own, as the quickest kernel of a CPU takes it."""
    num_shared = query_1HTD.shape[1] // key_1GTD.shape[1]
    key_1HTD, value_1HTD = (each.repeat_interleave(num_shared, dim=1) for each in (key_1GTD, value_1GTD))
    parts = zip(*(each.split(lengths, dim=2) for each in (query_1HTD, key_1HTD, value_1HTD)), strict=True)
    outputs = [
        functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        for query, key, value in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, attend)
