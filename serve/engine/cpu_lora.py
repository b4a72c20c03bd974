"""LoRA on the CPU, correct and fast for batches with tokens of the base and of several adapters. [edge]

vLLM 0.29 gives a token of the base slot -1 and then indexes the stacked adapters with it, so that in a mixed batch the
base answers with the last adapter's weights; and it copies an adapter's matrices once for each token. Here the rows of
one adapter are multiplied together, and the base's rows are left alone. `cpu_worker.py` has vLLM call this.

Shapes: T tokens, I and O a layer's input and output features, R rank, S adapter slots.
"""

from typing import TypeAlias

import torch

Rows: TypeAlias = slice | torch.Tensor


def rows_by_slot(slots_T: torch.Tensor) -> list[tuple[int, Rows]]:
    """(slot, its rows) of every adapter in a step. The base's rows have slot -1 and are left out."""
    present = torch.unique(slots_T).tolist()
    if len(present) == 1 and present[0] >= 0:
        return [(present[0], slice(0, len(slots_T)))]
    return [(slot, torch.nonzero(slots_T == slot).flatten()) for slot in present if slot >= 0]


def add_adapters(
    y_TO: torch.Tensor,
    x_TI: torch.Tensor,
    a_stacks: tuple[torch.Tensor, ...],
    b_stacks: tuple[torch.Tensor, ...],
    widths: tuple[int, ...],
    scale: float,
    rows_by_slot: list[tuple[int, Rows]],
) -> None:
    """Add each adapter's part to its rows of y_TO, in place.

    Fused layers stand side by side in O: a_stacks and b_stacks hold a_S1RI and b_S1OR of each, widths its part of O.
    """
    for slot, rows in rows_by_slot:
        x, y = x_TI[rows], y_TO[rows]
        start = 0
        for a_S1RI, b_S1OR, width in zip(a_stacks, b_stacks, widths, strict=True):
            shrunk_TR = torch.mm(x, a_S1RI[slot, 0].t())
            y[:, start : start + width].addmm_(shrunk_TR, b_S1OR[slot, 0].t(), alpha=scale)
            start += width
        if not isinstance(rows, slice):
            y_TO[rows] = y
