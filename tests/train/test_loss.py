"""The loss that never holds all logits is cross entropy and divergence, to the last gradient."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from train import loss
from train.loss import Objective, Targets, forward_kl, token_metrics

NUM_TARGETS, WIDTH, VOCAB_SIZE, TOP_K = 13, 8, 50, 4


@pytest.fixture(params=[1, 4 * VOCAB_SIZE, 1 << 26], ids=["a token at a time", "four at a time", "all at once"])
def logits_at_once(request, monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", request.param)


@pytest.fixture
def drawn():
    """Hidden states, a head, targets without a top-k, and the teacher's logits."""
    torch.manual_seed(0)
    hidden_SD = torch.randn(NUM_TARGETS, WIDTH, requires_grad=True)
    none_S0 = torch.zeros(NUM_TARGETS, 0)
    targets = Targets(torch.randint(VOCAB_SIZE, (NUM_TARGETS,)), torch.rand(NUM_TARGETS), none_S0.long(), none_S0)
    return hidden_SD, torch.randn(VOCAB_SIZE, WIDTH), targets, torch.randn(NUM_TARGETS, VOCAB_SIZE)


def with_topk(targets, teacher_SV, num_topk):
    """The targets with the teacher's top-k at the first tokens."""
    topk_probs_SK, topk_ids_SK = teacher_SV.softmax(dim=1).topk(TOP_K)
    topk_probs_SK[num_topk:] = 0
    topk_ids_SK[num_topk:] = 0
    return dataclasses.replace(targets, topk_ids_SK=topk_ids_SK, topk_probs_SK=topk_probs_SK)


def coarse(logprobs_SV, topk_ids_SK):
    """Logprobs of the top-k tokens, and of all others together."""
    others = torch.ones_like(logprobs_SV).scatter(1, topk_ids_SK, 0.0).log()
    return torch.cat([logprobs_SV.gather(1, topk_ids_SK), (logprobs_SV + others).logsumexp(1, keepdim=True)], dim=1)


@pytest.mark.usefixtures("logits_at_once")
def test_loss_and_gradient_are_those_of_weighted_cross_entropy(drawn):
    hidden_SD, head_VD, targets, _ = drawn
    expected = functional.cross_entropy(hidden_SD @ head_VD.T, targets.ids_S, reduction="none") @ targets.weights_S
    (wanted,) = torch.autograd.grad(3 * expected, hidden_SD)
    found, sums_2 = Objective.apply(hidden_SD, head_VD, targets, 0.0)
    (gradient,) = torch.autograd.grad(3 * found, hidden_SD)
    assert torch.allclose(found, expected, rtol=1e-5)
    assert sums_2.tolist() == [float(found.detach()), 0]
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("logits_at_once")
@pytest.mark.parametrize("num_topk", [0, 6, NUM_TARGETS])
def test_the_divergence_and_its_gradient_are_those_of_the_top_k_and_all_other_tokens_as_one(drawn, num_topk):
    hidden_SD, head_VD, targets, teacher_SV = drawn
    targets = with_topk(targets, teacher_SV, num_topk)
    student_SV = (hidden_SD @ head_VD.T).log_softmax(dim=1)
    theirs, own = (coarse(each, targets.topk_ids_SK) for each in (teacher_SV.log_softmax(dim=1), student_SV))
    kl_S = functional.kl_div(own, theirs, log_target=True, reduction="none").sum(dim=1)
    divergence = kl_S[:num_topk] @ targets.weights_S[:num_topk]
    entropy = functional.nll_loss(student_SV, targets.ids_S, reduction="none") @ targets.weights_S
    (wanted,) = torch.autograd.grad(entropy + 0.7 * divergence, hidden_SD)
    found, sums_2 = Objective.apply(hidden_SD, head_VD, targets, 0.7)
    (gradient,) = torch.autograd.grad(found, hidden_SD)
    assert torch.allclose(sums_2, torch.stack([entropy, divergence]), rtol=1e-5, atol=1e-6)
    assert torch.allclose(found, entropy + 0.7 * divergence, rtol=1e-5)
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@given(
    seed=st.integers(0, 1 << 30),
    sharpness=st.floats(0, 60),
    others=st.sampled_from([0.0, 1e-6, 0.3]),
)
def test_a_divergence_is_a_number_and_not_negative_however_sure_both_are(seed, sharpness, others):
    torch.manual_seed(seed)
    topk_probs_SK = torch.rand(3, 2).softmax(dim=1) * (1 - others)
    targets = Targets(torch.zeros(3).long(), torch.ones(3), torch.tensor([[0, 1]] * 3), topk_probs_SK)
    kl_S, kl_grad_logits_SV = forward_kl((sharpness * torch.randn(3, 6)).log_softmax(dim=1), targets)
    assert torch.isfinite(kl_S).all()
    assert torch.isfinite(kl_grad_logits_SV).all()
    assert (kl_S >= -1e-5).all()


def test_a_student_that_is_the_teacher_has_no_divergence(drawn):
    _, _, targets, teacher_SV = drawn
    kl_S, kl_grad_logits_SV = forward_kl(teacher_SV.log_softmax(dim=1), with_topk(targets, teacher_SV, NUM_TARGETS))
    assert kl_S.abs().max() < 1e-5
    assert kl_grad_logits_SV.abs().max() < 1e-6


@pytest.mark.usefixtures("logits_at_once")
def test_token_metrics_are_each_token_s_loss_divergence_and_whether_it_is_ranked_first(drawn):
    hidden_SD, head_VD, targets, teacher_SV = drawn
    logits_SV = hidden_SD @ head_VD.T
    targets.ids_S[:5] = logits_SV[:5].argmax(dim=1)
    targets = with_topk(targets, teacher_SV, 6)
    losses_S, hits_S, kls_S = token_metrics(hidden_SD.detach(), head_VD, targets)
    assert torch.allclose(losses_S, functional.cross_entropy(logits_SV, targets.ids_S, reduction="none"), rtol=1e-5)
    assert hits_S.tolist() == (logits_SV.argmax(dim=1) == targets.ids_S).tolist()
    assert hits_S[:5].all()
    assert (kls_S > 0).tolist() == targets.has_topk_S.tolist() == [True] * 6 + [False] * 7


def test_nothing_supervised_has_no_loss():
    hidden_SD = torch.zeros(0, WIDTH, requires_grad=True)
    empty = Targets(torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 0).long(), torch.zeros(0, 0))
    found, _ = Objective.apply(hidden_SD, torch.randn(VOCAB_SIZE, WIDTH), empty, 0.0)
    assert found == 0
