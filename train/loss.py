"""Hidden states -> the loss of supervised tokens, without ever holding all of their logits. [edge]

Shapes: S supervised tokens, D width of the language model, W words of the vocabulary.
"""

from typing import Any

import torch

LOGITS_AT_ONCE = 1 << 26  # numbers: 256 MiB in float32


class CrossEntropy(torch.autograd.Function):
    """Weighted sum of the cross entropy at each supervised token, of a frozen head.

    The head does not learn, so the gradient of the hidden states is all that is wanted; it is made together with the
    loss, some tokens at a time, and their logits are forgotten at once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden_SD: torch.Tensor, head_WD: torch.Tensor, targets_S: torch.Tensor, weights_S: torch.Tensor
    ) -> torch.Tensor:
        """Returns a scalar in float32."""
        gradient_SD = torch.empty_like(hidden_SD) if ctx.needs_input_grad[0] else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_SD.device)
        at_once = max(1, LOGITS_AT_ONCE // len(head_WD))
        for start in range(0, len(hidden_SD), at_once):
            rows = slice(start, start + at_once)
            logits_SW = (hidden_SD[rows] @ head_WD.T).float()
            target_S1 = targets_S[rows, None]
            total_S1 = logits_SW.logsumexp(dim=1, keepdim=True)
            loss += weights_S[rows] @ (total_S1 - logits_SW.gather(1, target_S1))[:, 0]
            if gradient_SD is not None:
                blame_SW = logits_SW.sub_(total_S1).exp_()
                blame_SW.scatter_add_(1, target_S1, torch.full_like(total_S1, -1.0))
                blame_SW *= weights_S[rows, None]
                gradient_SD[rows] = blame_SW.to(head_WD.dtype) @ head_WD
        ctx.save_for_backward(gradient_SD)
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        """The hidden states' gradient_SD alone."""
        (gradient_SD,) = ctx.saved_tensors
        return gradient_SD * gradients[0], None, None, None


def judge(hidden_SD: torch.Tensor, head_WD: torch.Tensor, targets_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The cross entropy at each token, losses_S, and whether the likeliest one is the target, hits_S; no gradient."""
    losses, hits = [], []
    at_once = max(1, LOGITS_AT_ONCE // len(head_WD))
    for start in range(0, len(hidden_SD), at_once):
        rows = slice(start, start + at_once)
        logits_SW = (hidden_SD[rows] @ head_WD.T).float()
        losses.append(torch.nn.functional.cross_entropy(logits_SW, targets_S[rows], reduction="none"))
        hits.append(logits_SW.argmax(dim=1) == targets_S[rows])
    return torch.cat(losses), torch.cat(hits)
