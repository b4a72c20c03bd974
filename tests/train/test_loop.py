"""An update under DeepSpeed: every adapter matrix learns, and each supervised token weighs the same on any rank."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from tests.train.conftest import config, example
from train import zero
from train.adapter import attach
from train.collation import encode, plan
from train.loop import update
from train.student import Eye, TargetLoss


@pytest.fixture
def one_rank(tmp_path, monkeypatch):
    """A process group of this process alone, as Ray Train makes it for its workers."""
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}.items():
        monkeypatch.setenv(name, value)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture
def adapted(model):
    return attach(model, rank=2, alpha=4, seed=0, base="base")


@pytest.fixture
def encoded(processor, images):
    targets = ["Answer: mill (A)", "Round and smooth and long.\nAnswer: vat (B)", "(A)", "B", "No.", "Yes, it is."]
    rows = [example(n, target, images=(n, 1) if n % 2 else ()) for n, target in enumerate(targets)]
    return encode(rows, images, processor, 500)[0]


@pytest.mark.usefixtures("one_rank")
# torch and DeepSpeed use what torch has deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_lora_B_moves_at_the_first_step_all_of_the_adapter_at_the_second_and_nothing_else(adapted, processor, encoded):
    settings, eye = config(num_workers=1, num_steps=2), Eye(adapted, processor, 1)
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    engine = zero.start(TargetLoss(adapted), settings)
    for share, learned in zip(plan(encoded, settings, rank=0, num_ranks=1), ["lora_B", "lora_"], strict=True):
        update(engine, share, 1e-2, eye, processor)
        for name, parameter in adapted.named_parameters():
            assert torch.equal(parameter, before[name]) == (learned not in name), name


class AveragingEngine:
    """As much of DeepSpeed's engine as an update sees of it; the ranks take turns, and are averaged at the end."""

    def __init__(self, module: TargetLoss) -> None:
        self.module = module
        self.device = torch.device("cpu")
        self.optimizer = SimpleNamespace(param_groups=[{}])

    def __call__(self, *batch):
        return self.module(*batch)

    def backward(self, loss, scale_wrt_gas):
        assert not scale_wrt_gas
        loss.backward()

    def step(self):
        pass


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_two_ranks_learn_what_one_learns_token_by_token(adapted, processor, encoded, monkeypatch, micro_batch_size):
    torch.nn.init.normal_(next(p for name, p in adapted.named_parameters() if "lora_B" in name))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    alone_loss, alone = _updated(adapted, processor, encoded, monkeypatch, 1, 4)
    together_loss, together = _updated(adapted, processor, encoded, monkeypatch, 2, micro_batch_size)
    assert together_loss == pytest.approx(alone_loss, rel=1e-5)
    for name, gradient in alone.items():
        assert torch.allclose(together[name], gradient, rtol=1e-4, atol=1e-7), name


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_example_counts_by_its_weight(adapted, processor, encoded, monkeypatch, num_ranks):
    torch.nn.init.normal_(next(p for name, p in adapted.named_parameters() if "lora_B" in name))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)

    def updated(weights):
        """After one batch of the first four examples with these weights."""
        rows = [dataclasses.replace(one, weight=w) for one, w in zip(encoded[:4], weights, strict=True)]
        return _updated(adapted, processor, rows, monkeypatch, num_ranks, 2)

    one, two = updated([1, 0, 0, 0]), updated([0, 1, 0, 0])
    first, second = encoded[0].num_targets, encoded[1].num_targets
    both = updated([1, 0.5, 0, 0])
    share = first / (first + 0.5 * second)
    assert both[0] == pytest.approx(share * one[0] + (1 - share) * two[0], rel=1e-5)
    for name, gradient in both[1].items():
        mixed = share * one[1][name] + (1 - share) * two[1][name]
        assert torch.allclose(gradient, mixed, rtol=1e-4, atol=1e-7), name

    alike, plain = updated([0.5] * 4), updated([1] * 4)
    assert alike[0] == pytest.approx(plain[0], rel=1e-5)
    for name, gradient in plain[1].items():
        assert torch.allclose(alike[1][name], gradient, rtol=1e-4, atol=1e-7), name

    loss, gradients = updated([0] * 4)
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())


def _updated(adapted, processor, encoded, monkeypatch, num_ranks, micro_batch_size):
    """The loss, summed over the ranks, and the gradients, averaged over them as DeepSpeed does."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: num_ranks)
    settings = config(num_workers=num_ranks, micro_batch_size=micro_batch_size, num_steps=1)
    engine, eye = AveragingEngine(TargetLoss(adapted)), Eye(adapted, processor, 1)
    adapted.zero_grad()
    loss = 0.0
    for rank in range(num_ranks):
        (share,) = plan(encoded, settings, rank, num_ranks)
        loss += update(engine, share, 1e-2, eye, processor)
    gradients = {name: p.grad / num_ranks for name, p in adapted.named_parameters() if p.requires_grad}
    return loss, gradients


def test_the_learning_rate_rises_and_then_falls_to_zero():
    settings = config(num_steps=100, warmup_share=0.1, learning_rate=2.0)
    rates = [zero.learning_rate(settings, step) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == 2.0
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(0.0)
    assert zero.learning_rate(config(num_steps=1), 1) == pytest.approx(0.0)
