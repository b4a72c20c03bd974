"""The loss that never holds all logits is cross entropy and divergence, to the last gradient."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from train import loss
from train.loss import Lesson, Objective, diverge, judge

NUM_TARGETS, WIDTH, NUM_WORDS, NUM_LIKELIEST = 13, 8, 50, 4


@pytest.fixture(params=[1, 4 * NUM_WORDS, 1 << 26], ids=["a token at a time", "four at a time", "all at once"])
def logits_at_once(request, monkeypatch):
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", request.param)


@pytest.fixture
def drawn():
    """Hidden states, a head, a lesson of tokens alone, and the teacher's logits."""
    torch.manual_seed(0)
    hidden_SD = torch.randn(NUM_TARGETS, WIDTH, requires_grad=True)
    none_S0 = torch.zeros(NUM_TARGETS, 0)
    lesson = Lesson(torch.randint(NUM_WORDS, (NUM_TARGETS,)), torch.rand(NUM_TARGETS), none_S0.long(), none_S0)
    return hidden_SD, torch.randn(NUM_WORDS, WIDTH), lesson, torch.randn(NUM_TARGETS, NUM_WORDS)


def told(lesson, teacher_SW, num_told):
    """A lesson with what the teacher held likeliest at its first places."""
    shares_SK, likeliest_SK = teacher_SW.softmax(dim=1).topk(NUM_LIKELIEST)
    shares_SK[num_told:] = 0
    likeliest_SK[num_told:] = 0
    return dataclasses.replace(lesson, likeliest_SK=likeliest_SK, shares_SK=shares_SK)


def coarse(logprobs_SW, likeliest_SK):
    """Logprobs of the likeliest words, and of all others together."""
    others = torch.ones_like(logprobs_SW).scatter(1, likeliest_SK, 0.0).log()
    return torch.cat([logprobs_SW.gather(1, likeliest_SK), (logprobs_SW + others).logsumexp(1, keepdim=True)], dim=1)


@pytest.mark.usefixtures("logits_at_once")
def test_loss_and_gradient_are_those_of_weighted_cross_entropy(drawn):
    hidden_SD, head_WD, lesson, _ = drawn
    expected = functional.cross_entropy(hidden_SD @ head_WD.T, lesson.targets_S, reduction="none") @ lesson.weights_S
    (wanted,) = torch.autograd.grad(3 * expected, hidden_SD)
    found, sums_2 = Objective.apply(hidden_SD, head_WD, lesson, 0.0)
    (gradient,) = torch.autograd.grad(3 * found, hidden_SD)
    assert torch.allclose(found, expected, rtol=1e-5)
    assert sums_2.tolist() == [float(found.detach()), 0]
    assert torch.allclose(gradient, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("logits_at_once")
@pytest.mark.parametrize("num_told", [0, 6, NUM_TARGETS])
def test_the_divergence_and_its_gradient_are_those_of_the_likeliest_words_and_all_others_as_one(drawn, num_told):
    hidden_SD, head_WD, lesson, teacher_SW = drawn
    lesson = told(lesson, teacher_SW, num_told)
    student_SW = (hidden_SD @ head_WD.T).log_softmax(dim=1)
    theirs, own = (coarse(each, lesson.likeliest_SK) for each in (teacher_SW.log_softmax(dim=1), student_SW))
    divergence_S = functional.kl_div(own, theirs, log_target=True, reduction="none").sum(dim=1)
    divergence = divergence_S[:num_told] @ lesson.weights_S[:num_told]
    entropy = functional.nll_loss(student_SW, lesson.targets_S, reduction="none") @ lesson.weights_S
    (wanted,) = torch.autograd.grad(entropy + 0.7 * divergence, hidden_SD)
    found, sums_2 = Objective.apply(hidden_SD, head_WD, lesson, 0.7)
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
    shares_SK = torch.rand(3, 2).softmax(dim=1) * (1 - others)
    lesson = Lesson(torch.zeros(3).long(), torch.ones(3), torch.tensor([[0, 1]] * 3), shares_SK)
    divergence_S, pull_SW = diverge((sharpness * torch.randn(3, 6)).log_softmax(dim=1), lesson)
    assert torch.isfinite(divergence_S).all()
    assert torch.isfinite(pull_SW).all()
    assert (divergence_S >= -1e-5).all()


def test_a_student_that_is_the_teacher_has_no_divergence(drawn):
    _, _, lesson, teacher_SW = drawn
    divergence_S, pull_SW = diverge(teacher_SW.log_softmax(dim=1), told(lesson, teacher_SW, NUM_TARGETS))
    assert divergence_S.abs().max() < 1e-5
    assert pull_SW.abs().max() < 1e-6


@pytest.mark.usefixtures("logits_at_once")
def test_a_judge_tells_each_tokens_loss_divergence_and_whether_it_is_the_likeliest(drawn):
    hidden_SD, head_WD, lesson, teacher_SW = drawn
    logits_SW = hidden_SD @ head_WD.T
    lesson.targets_S[:5] = logits_SW[:5].argmax(dim=1)
    lesson = told(lesson, teacher_SW, 6)
    losses_S, hits_S, divergences_S = judge(hidden_SD.detach(), head_WD, lesson)
    assert torch.allclose(losses_S, functional.cross_entropy(logits_SW, lesson.targets_S, reduction="none"), rtol=1e-5)
    assert hits_S.tolist() == (logits_SW.argmax(dim=1) == lesson.targets_S).tolist()
    assert hits_S[:5].all()
    assert (divergences_S > 0).tolist() == lesson.is_told_S.tolist() == [True] * 6 + [False] * 7


def test_nothing_supervised_has_no_loss():
    hidden_SD = torch.zeros(0, WIDTH, requires_grad=True)
    empty = Lesson(torch.zeros(0).long(), torch.zeros(0), torch.zeros(0, 0).long(), torch.zeros(0, 0))
    found, _ = Objective.apply(hidden_SD, torch.randn(NUM_WORDS, WIDTH), empty, 0.0)
    assert found == 0
