"""Held-out examples: how well the student predicts them, and which adapter was best. [edge]"""

import dataclasses
from collections.abc import Sequence

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from train.encoding import Encoded
from train.packing import shard_batch
from train.student import Student


@dataclasses.dataclass(frozen=True, slots=True)
class ValidationMetrics:
    """loss: cross entropy in nats per supervised token. accuracy: share of the supervised tokens that the student ranks
    first. divergence: from the teacher, in nats per token with a teacher's top-k; None when no token has one."""

    loss: float
    accuracy: float
    divergence: float | None


def evaluate(
    student: Student, examples: Sequence[Encoded], tokens_per_pack: int, rank: int, num_ranks: int
) -> ValidationMetrics:
    """The metrics of all examples. Every rank must call this with the same examples, and gets the same result."""
    packs = shard_batch(examples, num_ranks, tokens_per_pack)[rank]
    sums_5 = torch.zeros(5, dtype=torch.float64, device=student.device)
    for number, pack in enumerate(packs, 1):
        student.prefetch(packs[number : number + 1])  # one ahead: the pixels of all packs do not fit in memory
        batch, features = student.read(pack)
        losses_S, hits_S, kls_S = student.loss.token_metrics(batch, features)
        counts_S = batch.targets.weights_S > 0  # examples that only fill up a rank's packs have weight 0
        has_topk_S = counts_S & batch.targets.has_topk_S
        sums = (losses_S[counts_S], hits_S[counts_S], counts_S, kls_S[has_topk_S], has_topk_S)
        sums_5 += torch.stack([each.sum().double() for each in sums])
    torch.distributed.all_reduce(sums_5)
    loss, hits, count, divergence, num_topk = sums_5.tolist()
    return ValidationMetrics(loss / count, hits / count, divergence / num_topk if num_topk else None)


@dataclasses.dataclass(frozen=True)
class Best:
    """The lowest validation loss so far and its step, how many evaluations since then were not lower, and the adapter's
    weights at that step if they are needed later."""

    loss: float = float("inf")
    step: int = 0
    num_worse: int = 0
    weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict, compare=False)

    def after(self, loss: float, step: int, student: Student | None = None) -> "Best":
        """The best after one more evaluation. student: whose adapter is copied if this loss is the lowest."""
        if loss < self.loss:
            weights = get_peft_model_state_dict(student.model, save_embedding_layers=False) if student else {}
            return Best(loss, step, weights={name: each.detach().cpu().clone() for name, each in weights.items()})
        return dataclasses.replace(self, num_worse=self.num_worse + 1)

    def restore(self, student: Student) -> None:
        """Put the best adapter's weights back into the student."""
        set_peft_model_state_dict(student.model, self.weights)
