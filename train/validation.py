"""Questions that are held out of a fit: which they are, how well they are known, and when to stop. [edge]"""

import dataclasses
from collections.abc import Sequence

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict

from infra.digests import digest_bytes
from pipelines.records import TrainingExample
from train.encoding import Encoded
from train.packing import share_out
from train.student import Student

_DIGITS = 8


def held_out(examples: Sequence[TrainingExample], share: float) -> tuple[list[TrainingExample], list[TrainingExample]]:
    """Those to train on, and those to look at: a share of the questions, the same ones in every arm and every fit."""
    limit = share * 16**_DIGITS

    def is_held_out(example: TrainingExample) -> bool:
        return bool(int(digest_bytes(example.question_id.encode())[:_DIGITS], 16) < limit)

    kept = [example for example in examples if not is_held_out(example)]
    return kept, [example for example in examples if is_held_out(example)]


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What held-out examples show. loss: cross entropy per supervised token; accuracy: share of these tokens that are
    the likeliest ones; divergence: from the teacher, per token at which its distribution is known, None without any."""

    loss: float
    accuracy: float
    divergence: float | None


def evaluate(student: Student, examples: Sequence[Encoded], tokens_per_pack: int, rank: int, num_ranks: int) -> Seen:
    """How well examples are known; all ranks together."""
    packs = share_out(examples, num_ranks, tokens_per_pack)[rank]
    sums_5 = torch.zeros(5, dtype=torch.float64, device=student.device)
    for number, pack in enumerate(packs, 1):
        student.expect(packs[number : number + 1])  # one ahead: all of them together have too many pixels
        batch, sight = student.read(pack)
        losses_S, hits_S, divergences_S = student.loss.judge(batch, sight)
        counted_S = batch.lesson.weights_S > 0  # what a rank does over again for nothing has no weight
        told_S = counted_S & batch.lesson.is_told_S
        sums = (losses_S[counted_S], hits_S[counted_S], counted_S, divergences_S[told_S], told_S)
        sums_5 += torch.stack([each.sum().double() for each in sums])
    torch.distributed.all_reduce(sums_5)
    loss, hits, count, divergence, num_told = sums_5.tolist()
    return Seen(loss / count, hits / count, divergence / num_told if num_told else None)


@dataclasses.dataclass(frozen=True)
class Best:
    """The lowest loss so far and its step, how many evaluations since then were not lower, and the adapter's weights
    where they are wanted."""

    loss: float = float("inf")
    step: int = 0
    num_worse: int = 0
    weights: dict[str, torch.Tensor] = dataclasses.field(default_factory=dict, compare=False)

    def after(self, loss: float, step: int, student: Student | None = None) -> "Best":
        """With another evaluation, of an adapter that is kept where it is given."""
        if loss < self.loss:
            weights = get_peft_model_state_dict(student.model, save_embedding_layers=False) if student else {}
            return Best(loss, step, weights={name: each.detach().cpu().clone() for name, each in weights.items()})
        return dataclasses.replace(self, num_worse=self.num_worse + 1)

    def take(self, student: Student) -> None:
        """Put the best adapter in the place of the last one."""
        set_peft_model_state_dict(student.model, self.weights)
