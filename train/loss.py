"""Hidden states -> the loss of supervised tokens, without ever holding all of their logits. [edge]

Shapes: S supervised tokens, D width of the language model, W words of the vocabulary, K of them that a teacher told.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

LOGITS_AT_ONCE = 1 << 26  # numbers: 256 MiB in float32


@dataclasses.dataclass(frozen=True, slots=True)
class Lesson:
    """What is to be written at each supervised place.

    targets_S: the token. weights_S: how much its loss counts. likeliest_SK, shares_SK: the tokens that a teacher held
    likeliest there, each once, and their probabilities; all zero where they are not known, and K is 0 where none is.
    """

    targets_S: torch.Tensor
    weights_S: torch.Tensor
    likeliest_SK: torch.Tensor
    shares_SK: torch.Tensor

    @property
    def is_told_S(self) -> torch.Tensor:
        """Whether the teacher's distribution is known there."""
        return self.shares_SK.sum(dim=1) > 0

    def to(self, device: torch.device) -> "Lesson":
        """The same on a device."""
        return Lesson(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def parts(self, num_words: int) -> Iterator[tuple[slice, "Lesson"]]:
        """As many places at a time as may have all their logits."""
        at_once = max(1, LOGITS_AT_ONCE // num_words)
        for start in range(0, len(self.targets_S), at_once):
            rows = slice(start, start + at_once)
            yield rows, Lesson(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Objective(torch.autograd.Function):
    """What is minimised, of a frozen head: the weighted sum of the cross entropy at each supervised token, and beside
    it the divergence from the teacher where its distribution is known.

    The head does not learn, so the gradient of the hidden states is all that is wanted; it is made together with the
    loss, some tokens at a time, and their logits are forgotten at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: torch.Tensor, head_WD: torch.Tensor, lesson: Lesson, distillation_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the objective, a scalar in float32, and sums_2 without a gradient: weighted cross entropy and
        divergence."""
        gradient_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        sums_2 = torch.zeros(2, dtype=torch.float32, device=hidden_SD.device)
        for rows, part in lesson.parts(len(head_WD)):
            weights_S1, target_S1 = part.weights_S[:, None], part.targets_S[:, None]
            logprobs_SW = _logprobs(hidden_SD[rows], head_WD)
            sums_2[0] -= part.weights_S @ logprobs_SW.gather(1, target_S1)[:, 0]
            divergence_S, pull_SW = diverge(logprobs_SW, part)
            sums_2[1] += part.weights_S @ divergence_S
            if gradient_SD is not None:
                blame_SW = logprobs_SW.exp_()
                blame_SW.scatter_add_(1, target_S1, torch.full_like(weights_S1, -1.0))
                if pull_SW is not None:
                    blame_SW.add_(pull_SW, alpha=distillation_weight)
                gradient_SD[rows] = blame_SW.mul_(weights_S1).to(head_WD.dtype) @ head_WD
        ctx.save_for_backward(gradient_SD)
        ctx.mark_non_differentiable(sums_2)
        return sums_2[0] + distillation_weight * sums_2[1], sums_2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The hidden states' gradient_SD alone."""
        (gradient_SD,) = ctx.saved_tensors
        return gradient_SD * gradients[0], None, None, None


def diverge(logprobs_SW: torch.Tensor, lesson: Lesson) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The student's forward KL divergence from the teacher, divergence_S, and its gradient by the logits, pull_SW.

    All words that the teacher did not tell are one outcome, so that it is a true divergence, of what is known of both.
    Without anything told it is 0, and there is no gradient.
    """
    if not lesson.likeliest_SK.shape[1]:
        return torch.zeros_like(logprobs_SW[:, 0]), None
    told_S1 = lesson.is_told_S[:, None].float()
    shares_SK, rest_S1 = lesson.shares_SK, (1 - lesson.shares_SK.sum(dim=1, keepdim=True)).clamp_min(0)
    likely_SK = logprobs_SW.gather(1, lesson.likeliest_SK)
    others_SW = logprobs_SW.exp().scatter_(1, lesson.likeliest_SK, 0.0)
    others_S1 = others_SW.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    entropy_S1 = torch.special.entr(shares_SK).sum(dim=1, keepdim=True) + torch.special.entr(rest_S1)
    crossed_S1 = (shares_SK * likely_SK).sum(dim=1, keepdim=True) + rest_S1 * others_S1.log()
    divergence_S1 = -told_S1 * (entropy_S1 + crossed_S1)
    pull_SW = others_SW.mul_(1 - rest_S1 / others_S1).scatter_(1, lesson.likeliest_SK, likely_SK.exp() - shares_SK)
    return divergence_S1[:, 0], pull_SW.mul_(told_S1)


def judge(
    hidden_SD: torch.Tensor, head_WD: torch.Tensor, lesson: Lesson
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The cross entropy at each token, losses_S, whether the likeliest one is the target, hits_S, and the divergence
    from the teacher, divergences_S, 0 where it is not known; no gradient."""
    judged = []
    for rows, part in lesson.parts(len(head_WD)):
        logprobs_SW = _logprobs(hidden_SD[rows], head_WD)
        losses_S = functional.nll_loss(logprobs_SW, part.targets_S, reduction="none")
        judged.append((losses_S, logprobs_SW.argmax(dim=1) == part.targets_S, diverge(logprobs_SW, part)[0]))
    losses_S, hits_S, divergences_S = (torch.cat(column) for column in zip(*judged, strict=True))
    return losses_S, hits_S, divergences_S


def _logprobs(hidden_SD: torch.Tensor, head_WD: torch.Tensor) -> torch.Tensor:
    return functional.log_softmax(hidden_SD @ head_WD.T, dim=1, dtype=torch.float32)
