"""Tokens -> packs: which examples share an update, which rank does them, and which of them share a forward pass. [edge]

A pack is several examples one behind the other, without padding: each has its own rotary positions, and none attends to
another. Shapes: T tokens of a pack, L of one example, N images, S supervised tokens.
"""

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from train.encoding import Encoded
from train.loss import Lesson
from train.recipes import FitConfig

# (ids_1L, mm_token_type_ids_1L, image_grid_thw_N3) -> the rotary positions_31L of an example, as the model has them.
Positions = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """What one rank does in one update: its packs, and what the whole batch over all ranks holds.

    num_targets: supervised tokens; lengths: of its examples; total_weight: of the supervised tokens; told_weight: of
    those at which a teacher's distribution is known.
    """

    packs: list[list[Encoded]]
    num_targets: int
    lengths: tuple[int, ...]
    total_weight: float
    told_weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A pack as tensors.

    input_ids_1T; positions_31T: rotary ones, temporal, height and width; lengths: of the examples, in their order.
    predicting_S: places whose next token is supervised; lesson: what that is.
    """

    input_ids_1T: torch.Tensor
    positions_31T: torch.Tensor
    lengths: tuple[int, ...]
    predicting_S: torch.Tensor
    lesson: Lesson

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(
            self.input_ids_1T.to(device),
            self.positions_31T.to(device),
            self.lengths,
            self.predicting_S.to(device),
            self.lesson.to(device),
        )


def plan(
    examples: Sequence[Encoded], config: FitConfig, rank: int, num_ranks: int, *, done: int = 0
) -> Iterator[Share]:
    """This rank's share of every update after the first `done`: epochs in a seeded order, one after the other.

    Every rank lays the same plan, so each knows what the whole batch holds without asking; and all have equally many
    packs, since their gradients meet after each.
    """
    indices = shuffled_epochs(len(examples), config.seed)
    for _ in islice(indices, done * config.batch_size):
        pass
    for _ in range(done, config.num_steps):
        batch = [examples[next(indices)] for _ in range(config.batch_size)]
        yield Share(
            share_out(batch, num_ranks, config.tokens_per_pack)[rank],
            sum(example.num_targets for example in batch),
            tuple(len(example.input_ids) for example in batch),
            sum(example.weight * example.num_targets for example in batch),
            sum(example.weight * example.num_told for example in batch),
        )


def share_out(batch: Sequence[Encoded], num_ranks: int, tokens_per_pack: int) -> list[list[list[Encoded]]]:
    """The packs of each rank: equally many, about equally long, none of more tokens than allowed.

    A rank that has fewer examples than packs does one of the batch's once more, for nothing.
    """
    by_rank = _balanced(batch, num_ranks)
    fewest = max(1, *(-(-_num_tokens(own) // tokens_per_pack) for own in by_rank))
    for num_packs in range(fewest, len(batch) + 1):
        packs = [_balanced(own, num_packs) for own in by_rank]
        if all(_num_tokens(pack) <= tokens_per_pack for own in packs for pack in own):
            break
    else:
        longest = max(len(example.input_ids) for example in batch)
        raise ValueError(f"an example of {longest} tokens fits no pack of {tokens_per_pack}")
    idle = dataclasses.replace(min(batch, key=lambda example: len(example.input_ids)), weight=0.0)
    return [[pack or [idle] for pack in own] for own in packs]


def _balanced(examples: Sequence[Encoded], num_bins: int) -> list[list[Encoded]]:
    """The longest first, each to where there are the fewest tokens so far."""
    bins: list[list[Encoded]] = [[] for _ in range(num_bins)]
    loads = [(0, number) for number in range(num_bins)]
    for example in sorted(examples, key=lambda each: -len(each.input_ids)):
        load, number = heapq.heappop(loads)
        bins[number].append(example)
        heapq.heappush(loads, (load + len(example.input_ids), number))
    return bins


def _num_tokens(pack: Sequence[Encoded]) -> int:
    return sum(len(example.input_ids) for example in pack)


def shuffled_epochs(num_examples: int, seed: int) -> Iterator[int]:
    """The examples' numbers without an end, each epoch in an order of its own."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(num_examples, generator=generator).tolist()


def collate(pack: Sequence[Encoded], grid_N3: torch.Tensor | None, image_token: int, positions: Positions) -> Batch:
    """A pack as tensors, on the CPU.

    grid_N3: image_grid_thw of all its images, in order. positions: the model's own, asked for each example alone, so
    that what it stands beside changes nothing.
    """
    ids, placed, predicting = [], [], []
    offset = num_images = 0
    for example in pack:
        ids_L = torch.frombuffer(example.input_ids, dtype=torch.int32).long()
        length, own = len(ids_L), len(example.images)
        if own:
            assert grid_N3 is not None
            grid = grid_N3[num_images : num_images + own]
            placed.append(positions(ids_L[None], (ids_L == image_token).int()[None], image_grid_thw=grid)[0])
        else:
            placed.append(torch.arange(length).expand(3, 1, -1))
        ids.append(ids_L)
        predicting.append(torch.arange(offset + length - example.num_targets - 1, offset + length - 1))
        offset += length
        num_images += own
    return Batch(
        input_ids_1T=torch.cat(ids)[None],
        positions_31T=torch.cat(placed, dim=-1),
        lengths=tuple(map(len, ids)),
        predicting_S=torch.cat(predicting),
        lesson=_lesson(pack),
    )


def _lesson(pack: Sequence[Encoded]) -> Lesson:
    nums = [example.num_targets for example in pack]
    widths = {example.told.tokens_PK.shape[1] for example in pack if example.told is not None}
    (width,) = widths or {0}  # one teacher, one setting
    likeliest_SK = np.zeros((sum(nums), width), np.int64)
    shares_SK = np.zeros((sum(nums), width), np.float32)
    targets: list[int] = []
    for example in pack:
        if example.told is not None:
            own = slice(len(targets), len(targets) + example.num_told)
            likeliest_SK[own], shares_SK[own] = example.told.tokens_PK, example.told.shares_PK
        targets += example.input_ids[-example.num_targets :]
    return Lesson(
        torch.tensor(targets),
        torch.tensor([example.weight for example in pack], dtype=torch.float32).repeat_interleave(torch.tensor(nums)),
        torch.from_numpy(likeliest_SK),
        torch.from_numpy(shares_SK),
    )
