"""An update under DeepSpeed: every adapter matrix learns, and each supervised token weighs the same on any rank."""

import dataclasses
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from infra.errors import InputError
from pipelines.records import TrainingExample, tables
from tests.train.conftest import config, example, tiny
from train import checkpoint, loop, zero
from train.adapter import attach
from train.curve import CurveReader
from train.encoding import encode
from train.job import FitJob, Watched
from train.loop import take_step, update
from train.packing import plan
from train.student import Student, TargetLoss

# torch and DeepSpeed use what torch has deprecated.
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    """A process group of this process alone, as Ray Train makes it for its workers; DeepSpeed takes one for good."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}.items():
            patch.setenv(name, value)
        store = tmp_path_factory.mktemp("group") / "store"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("device", "is_exact"), [("cuda", True), ("cpu", False)])
def test_on_a_gpu_kernels_are_made_deterministic_and_not_only_warned_of(device, is_exact):
    """With warn_only, torch leaves the backward pass of flash attention as it is."""
    try:
        loop.make_deterministic(torch.device(device))
        assert torch.are_deterministic_algorithms_enabled() == is_exact
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def adapted(model):
    return attach(model, rank=2, alpha=4, seed=0, base="base")


@pytest.fixture
def encoded(processor, images):
    targets = ["Answer: mill (A)", "Round and smooth and long.\nAnswer: vat (B)", "(A)", "B", "No.", "Yes, it is."]
    rows = [example(n, target, images=(n, 1) if n % 2 else ()) for n, target in enumerate(targets)]
    return encode(rows, images, processor, 500)[0]


def _engine(model, processor, settings):
    student = Student(attach(model, rank=2, alpha=4, seed=0, base="base"), processor, 1)
    return zero.start(student.loss, settings), student


def _weights(student):
    return {name: p.detach().clone() for name, p in student.model.named_parameters()}


@quiet
@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("stage", [1, 2])
def test_lora_B_moves_at_the_first_step_all_of_the_adapter_at_the_second_and_nothing_else(
    model, processor, encoded, stage
):
    settings = config(num_workers=1, num_steps=3, zero_stage=stage, max_length=100, tokens_per_pack=100)
    engine, student = _engine(model, processor, settings)
    before = _weights(student)
    shards = islice(plan(encoded, settings, rank=0, num_ranks=1), 2)
    for step, (shard, trained) in enumerate(zip(shards, ["lora_B", "lora_"], strict=True), 1):
        assert len(shard.packs) > 1
        point = take_step(engine, student, shard, settings, step)
        assert point.gradient_norm > 0
        assert point.num_tokens > point.num_targets > 0
        for name, parameter in student.model.named_parameters():
            assert torch.equal(parameter, before[name]) == (trained not in name), name


@quiet
@pytest.mark.usefixtures("one_rank")
def test_a_fit_that_goes_on_from_a_checkpoint_takes_the_same_steps_to_the_last_bit(processor, encoded, tmp_path):
    settings = config(num_workers=1, num_steps=6)

    def steps(engine, student, done, until):
        shards = plan(encoded, settings, 0, 1, done=done)
        return [take_step(engine, student, next(shards), settings, step).loss for step in range(done + 1, until + 1)]

    sdpa = {"text_config": "packed", "vision_config": "sdpa"}
    engine, student = _engine(tiny(processor, sdpa), processor, settings)
    unbroken = steps(engine, student, 0, 3)
    extra = {"a.lora_A.weight": torch.ones(2)}
    checkpoint.save(tmp_path, engine, 3, 0, {"loss": 0.5}, extra)
    unbroken += steps(engine, student, 3, 6)
    again, other = _engine(tiny(processor, sdpa), processor, settings)
    place = checkpoint.agreed(tmp_path, 0)
    step, about, found = checkpoint.restore(place, again)
    assert (step, about) == (3, {"loss": 0.5})
    assert found.keys() == extra.keys()
    assert torch.equal(found["a.lora_A.weight"], extra["a.lora_A.weight"])
    assert steps(again, other, 3, 6) == unbroken[3:]
    wanted = _weights(student)
    for name, parameter in other.model.named_parameters():
        assert torch.equal(parameter, wanted[name]), name


@quiet
@pytest.mark.usefixtures("one_rank")
def test_a_checkpoint_that_is_damaged_or_half_written_is_passed_over_and_only_the_newest_are_kept(
    model, processor, encoded, tmp_path
):
    settings = config(num_workers=1)
    engine, student = _engine(model, processor, settings)
    take_step(engine, student, next(plan(encoded, settings, 0, 1)), settings, 1)
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, engine, step, 0, {}, {})
    assert [place.name for place in checkpoint.sealed(tmp_path)] == ["step-000003", "step-000002"]
    assert checkpoint.newest(tmp_path).name == "step-000003"
    content = bytearray((tmp_path / "step-000003/state.safetensors").read_bytes())
    content[-1] ^= 0xFF
    (tmp_path / "step-000003/state.safetensors").write_bytes(content)
    assert checkpoint.newest(tmp_path).name == "step-000002"
    (tmp_path / "step-000002/checkpoint.json").write_text('{"step": 2, "sha')
    assert checkpoint.newest(tmp_path) is None
    assert checkpoint.newest(tmp_path / "nothing") is None


@quiet
@pytest.mark.usefixtures("one_rank")
def test_a_loss_that_is_no_number_is_one_clear_error(model, processor, encoded):
    settings = config(num_workers=1)
    engine, student = _engine(model, processor, settings)
    lora = next(p for name, p in student.model.named_parameters() if "lora_A" in name)
    lora.data.fill_(float("nan"))
    with pytest.raises(InputError, match=r"Step 7 has loss nan .* Lower fit.learning_rate \(it was"):
        take_step(engine, student, next(plan(encoded, settings, 0, 1)), settings, 7)


@quiet
@pytest.mark.usefixtures("one_rank")
def test_a_fit_accounts_for_every_example_and_another_seed_is_another_adapter(processor, images, tmp_path, monkeypatch):
    rows = [example(n, split="validation" if n in (1, 4) else "train") for n in range(8)]
    other = [dataclasses.replace(row, target="long " * 40 if row.question_id in "24" else "It is.") for row in rows]
    for arm, own in (("answer_only", rows), ("other", other)):
        (tmp_path / arm).mkdir()
        tables.write(tmp_path / arm, TrainingExample, own)
    sdpa = {"text_config": "packed", "vision_config": "sdpa"}
    monkeypatch.setattr(loop, "load", lambda *_: (tiny(processor, sdpa), processor))
    monkeypatch.setattr(loop, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(loop, "get_context", lambda: SimpleNamespace(get_world_rank=lambda: 0))
    monkeypatch.setattr(loop, "_silence_libraries", lambda: None)

    def fitted(seed):
        folder = tmp_path / f"seed{seed}"
        (folder / "checkpoints").mkdir(parents=True)
        job = FitJob(
            config=config(num_workers=1, num_steps=2, batch_size=2, max_length=150, seed=seed),
            base="base",
            examples=tmp_path / "answer_only",
            compared=(tmp_path / "other",),
            images=images,
            rationales=tmp_path,
            checkpoints=folder / "checkpoints",
            folder=folder,
        )
        outcome = loop.fit(job)
        points = CurveReader(job.checkpoints)
        points.new_points()
        return outcome, points.points(2)[-1], load_file(folder / "adapter_model.safetensors")

    outcome, point, weights = fitted(20)
    assert outcome.watched == Watched.VALIDATION
    assert outcome.reasons == {"too_long_in_another_arm": 2, "held_out": 1, "not_reached": 1}
    assert outcome.num_examples == outcome.num_trained_on + sum(outcome.reasons.values()) == 8
    assert point.validation_loss is not None
    other_weights = fitted(21)[2]
    assert not any(torch.equal(each, other_weights[name]) for name, each in weights.items())


class AveragingEngine:
    """As much of DeepSpeed's engine as an update sees of it; the ranks take turns, and are averaged at the end."""

    def __init__(self, module: TargetLoss) -> None:
        self.module = module
        self.device = torch.device("cpu")
        self.optimizer = SimpleNamespace(param_groups=[{}])
        self.is_boundary = False

    def __call__(self, *batch):
        return self.module(*batch)

    def set_gradient_accumulation_boundary(self, is_boundary):
        assert not self.is_boundary
        self.is_boundary = is_boundary

    def backward(self, loss, scale_wrt_gas):
        assert not scale_wrt_gas
        loss.backward()

    def step(self):
        assert self.is_boundary
        self.is_boundary = False


@pytest.mark.parametrize("tokens_per_pack", [200, 500])
@pytest.mark.parametrize("num_ranks", [2, 3])
def test_ranks_together_have_the_loss_and_the_gradients_of_one_rank(
    adapted, processor, encoded, monkeypatch, num_ranks, tokens_per_pack
):
    torch.nn.init.normal_(next(p for name, p in adapted.named_parameters() if "lora_B" in name))
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)
    alone_loss, alone = _updated(adapted, processor, encoded, monkeypatch, 1, 1000)
    together_loss, together = _updated(adapted, processor, encoded, monkeypatch, num_ranks, tokens_per_pack)
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
        return _updated(adapted, processor, rows, monkeypatch, num_ranks, 200)

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


def _updated(adapted, processor, encoded, monkeypatch, num_ranks, tokens_per_pack):
    """The loss, summed over the ranks, and the gradients, averaged over them as DeepSpeed does."""
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: num_ranks)
    settings = config(num_workers=num_ranks, tokens_per_pack=tokens_per_pack, num_steps=1)
    student = Student(adapted, processor, 1)
    engine = AveragingEngine(student.loss)
    adapted.zero_grad()
    loss = 0.0
    for rank in range(num_ranks):
        (shard,) = plan(encoded, settings, rank, num_ranks)
        loss += update(engine, student, shard, 1e-2)[0]
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
