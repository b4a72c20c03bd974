"""The best adapter is the one of the lowest loss on what is held out."""

import torch

from tests.train.conftest import example
from train.adapter import attach
from train.encoding import encode
from train.student import Student
from train.validation import Best, evaluate


def test_an_evaluation_is_the_mean_over_all_supervised_tokens_of_all_ranks(model, processor, images, monkeypatch):
    rows = [example(n, target) for n, target in enumerate(["(A)", "Round and long.", "No.", "B", "Yes."])]
    encoded, _ = encode(rows, images, processor, 500)
    student = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    losses, hits, _ = zip(*(student.loss.token_metrics(*student.read([one])) for one in encoded), strict=True)
    wanted = torch.tensor([torch.cat(losses).mean(), torch.cat(hits).double().mean()]).double()
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    metrics = evaluate(student, encoded, 500, 0, 1)
    assert metrics.divergence is None
    assert torch.allclose(torch.tensor([metrics.loss, metrics.accuracy]).double(), wanted, rtol=1e-5)

    sums = []
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: sums.append(tensor.clone()))
    for rank in range(3):
        evaluate(student, encoded, 200, rank, 3)
    loss, right, count, *_ = sum(sums).tolist()
    assert count == sum(one.num_targets for one in encoded)
    assert torch.allclose(torch.tensor([loss / count, right / count]).double(), wanted, rtol=1e-5)


def test_no_more_than_one_pack_is_read_ahead_of_the_one_that_is_evaluated(model, processor, images, monkeypatch):
    encoded, _ = encode([example(n) for n in range(12)], images, processor, 500)
    student = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    waiting, read = [], student.read
    monkeypatch.setattr(student, "read", lambda pack: waiting.append(student.num_prefetched) or read(pack))
    evaluate(student, encoded, 100, 0, 1)
    assert len(waiting) > 4
    assert max(waiting) == 2  # the one whose turn it is, and the next
    assert student.num_prefetched == 0


def test_the_best_is_the_lowest_and_what_came_after_it_is_counted():
    best = Best()
    for step, loss in enumerate([3.0, 2.0, 2.5, 2.0], 1):
        best = best.after(loss, step)
    assert best == Best(loss=2.0, step=2, num_worse=2)
    assert best.after(1.0, 5) == Best(loss=1.0, step=5, num_worse=0)


def test_the_best_adapter_takes_the_place_of_the_last_one(model, processor):
    student = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    best = Best().after(1.0, 1, student)
    before = {name: each.detach().clone() for name, each in student.model.named_parameters()}
    with torch.no_grad():
        for name, each in student.model.named_parameters():
            if "lora_" in name:
                each.add_(1.0)
    best = best.after(2.0, 2, student)
    assert best == Best(loss=1.0, step=1, num_worse=1)
    best.restore(student)
    assert all(torch.equal(each, before[name]) for name, each in student.model.named_parameters())
