"""The loss that never holds all logits is cross entropy, to the last gradient."""

import pytest
import torch
from torch.nn import functional

from train import loss
from train.loss import CrossEntropy, judge

NUM_TARGETS, WIDTH, NUM_WORDS = 13, 8, 50


@pytest.fixture(params=[1, 4 * NUM_WORDS, 1 << 26], ids=["a token at a time", "four at a time", "all at once"])
def logits_at_once(request, monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", request.param)


@pytest.fixture
def drawn():
    torch.manual_seed(0)
    hidden_SD = torch.randn(NUM_TARGETS, WIDTH, requires_grad=True)
    return hidden_SD, torch.randn(NUM_WORDS, WIDTH), torch.randint(NUM_WORDS, (NUM_TARGETS,)), torch.rand(NUM_TARGETS)


@pytest.mark.usefixtures("logits_at_once")
def test_loss_and_gradient_are_those_of_weighted_cross_entropy(drawn):
    hidden_SD, head_WD, targets_S, weights_S = drawn
    expected = functional.cross_entropy(hidden_SD @ head_WD.T, targets_S, reduction="none") @ weights_S
    (wanted,) = torch.autograd.grad(3 * expected, hidden_SD)
    found = CrossEntropy.apply(hidden_SD, head_WD, targets_S, weights_S)
    (gradient,) = torch.autograd.grad(3 * found, hidden_SD)
    assert torch.allclose(found, expected, rtol=1e-5)
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("logits_at_once")
def test_a_judge_tells_each_tokens_loss_and_whether_it_is_the_likeliest(drawn):
    hidden_SD, head_WD, targets_S, _ = drawn
    logits_SW = hidden_SD @ head_WD.T
    targets_S[:5] = logits_SW[:5].argmax(dim=1)
    losses_S, hits_S = judge(hidden_SD.detach(), head_WD, targets_S)
    assert torch.allclose(losses_S, functional.cross_entropy(logits_SW, targets_S, reduction="none"), rtol=1e-5)
    assert hits_S.tolist() == (logits_SW.argmax(dim=1) == targets_S).tolist()
    assert hits_S[:5].all()


def test_nothing_supervised_has_no_loss():
    hidden_SD = torch.zeros(0, WIDTH, requires_grad=True)
    found = CrossEntropy.apply(
        hidden_SD, torch.randn(NUM_WORDS, WIDTH), torch.zeros(0, dtype=torch.long), torch.zeros(0)
    )
    assert found == 0
