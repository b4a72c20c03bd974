"""LoRA in batches where requests of the base and of several adapters meet."""

import pytest
import torch

from serve.engine.cpu_lora import add_adapters, rows_by_slot

NUM_SLOTS, RANK, NUM_INPUTS, WIDTHS = 3, 4, 6, (5, 2, 2)


def stacks() -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(NUM_SLOTS, 1, RANK, NUM_INPUTS, generator=generator) for _ in WIDTHS)
    b = tuple(torch.randn(NUM_SLOTS, 1, width, RANK, generator=generator) for width in WIDTHS)
    return a, b


def one_by_one(y, x, a_stacks, b_stacks, slots):
    """What each row alone should become."""
    y = y.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            y[row] += torch.cat([b[slot, 0] @ (a[slot, 0] @ x[row]) for a, b in zip(a_stacks, b_stacks, strict=True)])
    return y


@pytest.mark.parametrize(
    "slots", [[-1, -1, -1], [0, 0, 0], [2, 2, 2], [-1, 0, -1, 2, 0], [1, -1], [0, 1, 2, -1, 2, 1, 0], [-1], [1]]
)
def test_each_row_gets_its_own_adapter_and_the_base_none(slots):
    a_stacks, b_stacks = stacks()
    x, y = torch.randn(len(slots), NUM_INPUTS), torch.randn(len(slots), sum(WIDTHS))
    expected = one_by_one(y, x, a_stacks, b_stacks, slots)
    add_adapters(y, x, a_stacks, b_stacks, WIDTHS, 1.0, rows_by_slot(torch.tensor(slots)))
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_rows_beyond_the_step_are_left_alone():
    a_stacks, b_stacks = stacks()
    x, y = torch.randn(4, NUM_INPUTS), torch.zeros(4, sum(WIDTHS))
    add_adapters(y, x, a_stacks, b_stacks, WIDTHS, 1.0, rows_by_slot(torch.tensor([1, 1])))
    assert (y[:2] != 0).all()
    assert (y[2:] == 0).all()
