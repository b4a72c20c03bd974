"""Tokens -> packs: which examples are in a batch, which rank has them, and which share a forward pass. [edge]

A pack is several examples in one sequence, without padding: each has its own rotary positions, and none attends to
another. Shapes: T tokens of a pack, L of one example, N images, S supervised tokens.
"""

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import numpy as np
import torch

from train.encoding import Encoded
from train.loss import Targets
from train.recipes import FitConfig

# The model's (ids_1L, mm_token_type_ids_1L, image_grid_thw_N3) -> rotary positions_31L of an example.
RopeIndex = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@dataclasses.dataclass(frozen=True, slots=True)
class RankShard:
    """One rank's shard of a batch, and the totals of the whole batch over all ranks.

    packs: of this rank. Of the whole batch: num_targets, its supervised tokens; lengths, of its examples in tokens;
    total_weight, summed over the supervised tokens; topk_weight, summed over those with a teacher's top-k.
    """

    packs: list[list[Encoded]]
    num_targets: int
    lengths: tuple[int, ...]
    total_weight: float
    topk_weight: float


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """A pack as tensors.

    input_ids_1T: int64. positions_31T: rotary positions in time, height and width. lengths: of the examples in tokens,
    in their order. predicting_S: indices into T of the tokens whose next token is supervised. targets: those next
    tokens.
    """

    input_ids_1T: torch.Tensor
    positions_31T: torch.Tensor
    lengths: tuple[int, ...]
    predicting_S: torch.Tensor
    targets: Targets

    def to(self, device: torch.device) -> "Batch":
        """The same on a device."""
        return Batch(
            self.input_ids_1T.to(device),
            self.positions_31T.to(device),
            self.lengths,
            self.predicting_S.to(device),
            self.targets.to(device),
        )


def plan(
    examples: Sequence[Encoded], config: FitConfig, rank: int, num_ranks: int, *, done: int = 0
) -> Iterator[RankShard]:
    """This rank's shard of every batch after the first `done`, over shuffled epochs in the order of the seed.

    Every rank computes the same plan, so each knows the totals of the whole batch without communication. All ranks have
    the same number of packs, because they reduce gradients after each one.
    """
    indices = shuffled_epochs(len(examples), config.seed)
    for _ in islice(indices, done * config.batch_size):
        pass
    for _ in range(done, config.num_steps):
        batch = [examples[next(indices)] for _ in range(config.batch_size)]
        yield RankShard(
            shard_batch(batch, num_ranks, config.tokens_per_pack)[rank],
            sum(example.num_targets for example in batch),
            tuple(len(example.input_ids) for example in batch),
            sum(example.weight * example.num_targets for example in batch),
            sum(example.weight * example.num_topk_targets for example in batch),
        )


def shard_batch(batch: Sequence[Encoded], num_ranks: int, tokens_per_pack: int) -> list[list[list[Encoded]]]:
    """The packs of each rank: the same number on every rank, of about equal length, each within tokens_per_pack.

    A rank with fewer examples than packs fills up with the batch's shortest example at weight 0. Raises ValueError for
    an example that is longer than a pack.
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
    """Greedy bin packing: the longest example first, each into the bin with the fewest tokens so far."""
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
    """Indices of the examples, endlessly: each epoch has every index once, in a new order."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(num_examples, generator=generator).tolist()


def collate(pack: Sequence[Encoded], grid_N3: torch.Tensor | None, image_token: int, rope_index: RopeIndex) -> Batch:
    """A pack as tensors, on the CPU.

    grid_N3: image_grid_thw of all its images, in order; None without images. rope_index: the model's own function,
    called for each example alone, so that its neighbours in the pack do not shift its positions.
    """
    ids, placed, predicting = [], [], []
    offset = num_images = 0
    for example in pack:
        ids_L = torch.frombuffer(example.input_ids, dtype=torch.int32).long()
        length, own = len(ids_L), len(example.images)
        if own:
            assert grid_N3 is not None
            grid = grid_N3[num_images : num_images + own]
            placed.append(rope_index(ids_L[None], (ids_L == image_token).int()[None], image_grid_thw=grid)[0])
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
        targets=_targets(pack),
    )


def _targets(pack: Sequence[Encoded]) -> Targets:
    nums = [example.num_targets for example in pack]
    widths = {topk.ids_PK.shape[1] for example in pack if (topk := example.teacher_topk) is not None}
    (width,) = widths or {0}  # K is the same everywhere: there is one teacher with one setting
    topk_ids_SK = np.zeros((sum(nums), width), np.int64)
    topk_probs_SK = np.zeros((sum(nums), width), np.float32)
    ids: list[int] = []
    for example in pack:
        if (topk := example.teacher_topk) is not None:
            own = slice(len(ids), len(ids) + example.num_topk_targets)
            topk_ids_SK[own], topk_probs_SK[own] = topk.ids_PK, topk.probs_PK
        ids += example.input_ids[-example.num_targets :]
    return Targets(
        torch.tensor(ids),
        torch.tensor([example.weight for example in pack], dtype=torch.float32).repeat_interleave(torch.tensor(nums)),
        torch.from_numpy(topk_ids_SK),
        torch.from_numpy(topk_probs_SK),
    )
