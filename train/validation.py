"""Questions that are held out of a fit: which they are, how well they are known, and when to stop. [edge]"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file

from infra.digests import digest_bytes
from pipelines.records import TrainingExample
from train.encoding import Encoded
from train.packing import share_out
from train.student import Student
from train.work import writing

_BEST = "best.safetensors"
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
    sums_5 = torch.zeros(5, dtype=torch.float64, device=student.device)
    for pack in share_out(examples, num_ranks, tokens_per_pack)[rank]:
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
    """The lowest loss so far and its step, and how many evaluations since then were not lower."""

    loss: float = float("inf")
    step: int = 0
    num_worse: int = 0

    def after(self, loss: float, step: int) -> "Best":
        """With another evaluation."""
        if loss < self.loss:
            return Best(loss, step)
        return dataclasses.replace(self, num_worse=self.num_worse + 1)


def keep_best(folder: Path, student: Student) -> None:
    """Write down the adapter as the best so far."""
    weights = {
        name: each.detach().cpu().contiguous()
        for name, each in get_peft_model_state_dict(student.model, save_embedding_layers=False).items()
    }
    with writing(folder):
        save_file(weights, folder / f".{_BEST}.draft")
        (folder / f".{_BEST}.draft").replace(folder / _BEST)


def take_best(folder: Path, student: Student) -> None:
    """Put the best adapter in the place of the last one."""
    set_peft_model_state_dict(student.model, load_file(folder / _BEST))
