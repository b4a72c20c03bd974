"""Causal attention within each example of a pack, registered with Transformers under the name `packed`. [edge]

Shapes: H query heads, G key-value heads, T tokens of the pack, D width of a head.
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
    """Each token attends to itself and to the earlier tokens of its own example. Returns output_1THD and no weights.

    lengths: tokens of each example, in order; their sum is T. scaling: of the scores before the softmax.
    """
    attend_to = _by_flash if query_1HTD.is_cuda and query_1HTD.dtype != torch.float32 else _one_by_one
    return attend_to(query_1HTD, key_1GTD, value_1GTD, lengths, scaling), None


def _by_flash(
    query_1HTD: torch.Tensor, key_1GTD: torch.Tensor, value_1GTD: torch.Tensor, lengths: tuple[int, ...], scaling: float
) -> torch.Tensor:
    """All examples in one flash-attention kernel, which torch has for CUDA in half precision only."""
    from torch.nn.attention.varlen import varlen_attn

    offsets = cumulative_lengths(lengths, query_1HTD.device)
    query_THD, key_TGD, value_TGD = (each[0].transpose(0, 1) for each in (query_1HTD, key_1GTD, value_1GTD))
    longest = max(lengths)
    output_THD = varlen_attn(
        query_THD,
        key_TGD,
        value_TGD,
        offsets,
        offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=True,
    )
    return output_THD[None]


@lru_cache(maxsize=1)
def cumulative_lengths(lengths: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """The examples' offsets in the pack, in int32. Cached for all layers: each copy from the host stalls the GPU."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


def _one_by_one(
    query_1HTD: torch.Tensor, key_1GTD: torch.Tensor, value_1GTD: torch.Tensor, lengths: tuple[int, ...], scaling: float
) -> torch.Tensor:
    """One example after the other, each with torch's built-in causal mask, for which a CPU has its fastest kernel."""
    queries_per_key = query_1HTD.shape[1] // key_1GTD.shape[1]
    key_1HTD, value_1HTD = (each.repeat_interleave(queries_per_key, dim=1) for each in (key_1GTD, value_1GTD))
    parts = zip(*(each.split(lengths, dim=2) for each in (query_1HTD, key_1HTD, value_1HTD)), strict=True)
    outputs = [
        functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        for query, key, value in parts
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()


AttentionInterface.register(NAME, attend)
