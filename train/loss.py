"""Hidden states -> the loss of supervised tokens, without ever holding all of their logits. [edge]

Shapes: S supervised tokens, D width of the language model, V size of the vocabulary, K tokens of the teacher's top-k.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

LOGITS_AT_ONCE = 1 << 26  # numbers: 256 MiB in float32


@dataclasses.dataclass(frozen=True, slots=True)
class Targets:
    """What the student is to predict at each supervised token.

    ids_S: the right token, int64. weights_S: how much its loss counts, float32. topk_ids_SK, topk_probs_SK: the
    teacher's most likely tokens there, each once, and their probabilities. Both are zero at a token without a teacher's
    top-k, and K is 0 when no token has one.
    """

    ids_S: torch.Tensor
    weights_S: torch.Tensor
    topk_ids_SK: torch.Tensor
    topk_probs_SK: torch.Tensor

    @property
    def has_topk_S(self) -> torch.Tensor:
        """Whether a token has a teacher's top-k, as booleans."""
        return self.topk_probs_SK.sum(dim=1) > 0

    def to(self, device: torch.device) -> "Targets":
        """The same on a device."""
        return Targets(*(getattr(self, field.name).to(device) for field in dataclasses.fields(self)))

    def chunks(self, vocab_size: int) -> Iterator[tuple[slice, "Targets"]]:
        """The tokens in chunks whose logits together are at most LOGITS_AT_ONCE numbers; at least one token each."""
        chunk_size = max(1, LOGITS_AT_ONCE // vocab_size)
        for start in range(0, len(self.ids_S), chunk_size):
            rows = slice(start, start + chunk_size)
            yield rows, Targets(*(getattr(self, field.name)[rows] for field in dataclasses.fields(self)))


class Objective(torch.autograd.Function):
    """The training objective under a frozen head: the weighted sum of the cross entropy at each supervised token, plus
    the divergence from the teacher at each token with a teacher's top-k.

    The head is frozen, so only the gradient of the hidden states is needed. It is computed together with the loss,
    chunk by chunk, and the logits of a chunk are freed at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: torch.Tensor, head_VD: torch.Tensor, targets: Targets, distillation_weight: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the objective, a scalar in float32, and sums_2 without a gradient: the weighted cross entropy and the
        weighted divergence, both in nats."""
        hidden_grad_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        sums_2 = torch.zeros(2, dtype=torch.float32, device=hidden_SD.device)
        for rows, chunk in targets.chunks(len(head_VD)):
            weights_S1, ids_S1 = chunk.weights_S[:, None], chunk.ids_S[:, None]
            logprobs_SV = _logprobs(hidden_SD[rows], head_VD)
            sums_2[0] -= chunk.weights_S @ logprobs_SV.gather(1, ids_S1)[:, 0]
            kl_S, kl_grad_logits_SV = forward_kl(logprobs_SV, chunk)
            sums_2[1] += chunk.weights_S @ kl_S
            if hidden_grad_SD is not None:
                grad_logits_SV = logprobs_SV.exp_()
                grad_logits_SV.scatter_add_(1, ids_S1, torch.full_like(weights_S1, -1.0))
                if kl_grad_logits_SV is not None:
                    grad_logits_SV.add_(kl_grad_logits_SV, alpha=distillation_weight)
                hidden_grad_SD[rows] = grad_logits_SV.mul_(weights_S1).to(head_VD.dtype) @ head_VD
        ctx.save_for_backward(hidden_grad_SD)
        ctx.mark_non_differentiable(sums_2)
        return sums_2[0] + distillation_weight * sums_2[1], sums_2

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The gradient of hidden_SD alone."""
        (hidden_grad_SD,) = ctx.saved_tensors
        return hidden_grad_SD * gradients[0], None, None, None


def forward_kl(logprobs_SV: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The forward KL divergence of the student from the teacher, kl_S in nats, and its gradient by the logits,
    kl_grad_logits_SV.

    All tokens outside the teacher's top-k count as one outcome, on both sides, so the result is a true divergence and
    never more than the one over the whole vocabulary. It is 0 at a token without a top-k; when no token has one, there
    is no gradient (None).
    """
    if not targets.topk_ids_SK.shape[1]:
        return torch.zeros_like(logprobs_SV[:, 0]), None
    has_topk_S1 = targets.has_topk_S[:, None].float()
    topk_probs_SK = targets.topk_probs_SK
    rest_prob_S1 = (1 - topk_probs_SK.sum(dim=1, keepdim=True)).clamp_min(0)
    student_topk_logprobs_SK = logprobs_SV.gather(1, targets.topk_ids_SK)
    student_rest_SV = logprobs_SV.exp().scatter_(1, targets.topk_ids_SK, 0.0)
    student_rest_S1 = student_rest_SV.sum(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    entropy_S1 = torch.special.entr(topk_probs_SK).sum(dim=1, keepdim=True) + torch.special.entr(rest_prob_S1)
    topk_term_S1 = (topk_probs_SK * student_topk_logprobs_SK).sum(dim=1, keepdim=True)
    negative_cross_entropy_S1 = topk_term_S1 + rest_prob_S1 * student_rest_S1.log()
    kl_S1 = -has_topk_S1 * (entropy_S1 + negative_cross_entropy_S1)
    kl_grad_logits_SV = student_rest_SV.mul_(1 - rest_prob_S1 / student_rest_S1).scatter_(
        1, targets.topk_ids_SK, student_topk_logprobs_SK.exp() - topk_probs_SK
    )
    return kl_S1[:, 0], kl_grad_logits_SV.mul_(has_topk_S1)


def token_metrics(
    hidden_SD: torch.Tensor, head_VD: torch.Tensor, targets: Targets
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of each supervised token, without a gradient: the cross entropy losses_S in nats, whether the student ranks the
    right token first, hits_S, and the divergence from the teacher, kls_S, 0 without a teacher's top-k."""
    chunks = []
    for rows, chunk in targets.chunks(len(head_VD)):
        logprobs_SV = _logprobs(hidden_SD[rows], head_VD)
        losses_S = functional.nll_loss(logprobs_SV, chunk.ids_S, reduction="none")
        chunks.append((losses_S, logprobs_SV.argmax(dim=1) == chunk.ids_S, forward_kl(logprobs_SV, chunk)[0]))
    losses_S, hits_S, kls_S = (torch.cat(column) for column in zip(*chunks, strict=True))
    return losses_S, hits_S, kls_S


def _logprobs(hidden_SD: torch.Tensor, head_VD: torch.Tensor) -> torch.Tensor:
    """In float32, whatever the precision of the model."""
    return functional.log_softmax(hidden_SD @ head_VD.T, dim=1, dtype=torch.float32)
